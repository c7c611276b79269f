"""A picture file as what a shard holds: its own bytes where they will do, else JPEG or PNG."""

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image

from bksdm.data.decode import PICTURE_FORMATS, decoding, open_picture, upright_rgb

INPUT_FORMATS: Final = (*PICTURE_FORMATS, "BMP", "TIFF", "GIF")
SUFFIXES: Final = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # MPO: many a phone's
_ORIENTATION: Final = 0x0112  # the EXIF tag; 2 to 8 are turned or mirrored
_JPEG: Final = {"format": "jpeg", "quality": 95, "subsampling": 0}


@dataclass(frozen=True)
class Stored:
    """A picture's bytes, the suffix that tells their format, and the size in pixels."""

    suffix: str
    data: bytes
    width: int
    height: int


def stored_picture(data: bytes, *, short_side: int | None = None) -> Stored:
    """The same bytes if they are upright RGB of a format that shards have and no larger than
    `short_side` on their shorter side; else converted, without loss if the original had none.

    Raises:
        BadSampleError: the picture cannot be used.
    """
    original = open_picture(data, formats=INPUT_FORMATS)
    kind, mode = original.format or "", original.mode
    with decoding():
        picture = upright_rgb(original)
        scale = 1.0 if short_side is None else short_side / min(picture.size)
        if scale >= 1 and mode == "RGB" and kind in SUFFIXES and _as_it_is(original):
            return Stored(SUFFIXES[kind], data, *picture.size)
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    picture.info = {}  # a profile of CMYK or grey would be wrong now
    lossy = kind in ("JPEG", "MPO") or (kind == "WEBP" and data[12:16] != b"VP8L")
    suffix = "jpg" if lossy else "png"
    return Stored(suffix, jpeg(picture) if lossy else png(picture), *picture.size)


def _as_it_is(picture: Image.Image) -> bool:
    turned = picture.getexif().get(_ORIENTATION) in range(2, 9)
    moving = picture.format != "MPO" and getattr(picture, "is_animated", False)
    return not turned and not moving and "transparency" not in picture.info


def png(image: Image.Image) -> bytes:
    """Without loss."""
    return _encoded(image, format="png")


def jpeg(image: Image.Image) -> bytes:
    """Quality 95 and full colour resolution."""
    return _encoded(image, **_JPEG)


def _encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()
