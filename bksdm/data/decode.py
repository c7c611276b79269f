"""Bytes of a sample to picture, caption or array. Never executes anything: pictures of three
formats, UTF-8 text and plain arrays are read, every other member is left alone.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

PICTURE_FORMATS: Final = ("JPEG", "PNG", "WEBP")
MAX_PIXELS: Final = 89_478_485  # Pillow's own limit against decompression bombs, a quarter of 1 GiB

Bytes = bytes | bytearray


class BadSampleError(ValueError):
    """A sample that cannot be used.

    Attributes:
        reason: a few words, the same for every sample with this fault, as they are counted.
        detail: what the decoder said.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def decode_picture(data: Bytes, *, formats: tuple[str, ...] = PICTURE_FORMATS) -> Image.Image:
    """An upright RGB picture, whatever its mode, depth and EXIF orientation.

    Raises:
        BadSampleError: empty, too large, of another format, or broken.
    """
    with decoding():
        return upright_rgb(open_picture(data, formats=formats))


def open_picture(data: Bytes, *, formats: tuple[str, ...] = PICTURE_FORMATS) -> Image.Image:
    """A picture whose header is read and whose pixels are not: its own format, mode and size.

    Raises:
        BadSampleError: empty, too large, or of another format.
    """
    if not data:
        raise BadSampleError("empty picture")
    try:
        with decoding():
            image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise BadSampleError("not a picture", f"none of {', '.join(formats)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadSampleError("too many pixels", f"{image.width} x {image.height}")
    return image


@contextmanager
def decoding() -> Iterator[None]:
    """Pillow's errors over a picture's bytes become BadSampleError; its warnings are silent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large picture and odd EXIF are our business
            yield
    except (BadSampleError, UnidentifiedImageError):
        raise
    except Image.DecompressionBombError as error:
        raise BadSampleError("too many pixels", str(error)) from error
    except Exception as error:  # also TypeError, struct.error and more, found by changing bytes
        raise BadSampleError("broken picture", str(error)) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turned as EXIF says, transparency over white, 16 bits a channel scaled to 8, CMYK and grey
    converted.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image.alpha_composite(layer)
    return image.convert("RGB")


def decode_caption(data: Bytes) -> str:
    """A caption, without white space around it or a byte order mark before it.

    Raises:
        BadSampleError: not UTF-8.
    """
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadSampleError("caption is not UTF-8", str(error)) from error


def decode_latents(data: Bytes, *, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float16]:
    """A float16 array from the bytes of an .npy file; nothing else is read.

    Raises:
        BadSampleError: something else, or of another shape than `shape`.
    """
    try:
        if data[:8] != b"\x93NUMPY\x01\x00":
            raise BadSampleError("broken latents", "no .npy of version 1")
        end = 10 + int.from_bytes(data[8:10], "little")
        found = _npy_shape(bytes(data[:end]))
        if shape is not None and found != shape:
            raise BadSampleError("broken latents", f"of shape {found} instead of {shape}")
        return np.frombuffer(data, np.float16, offset=end).reshape(found)
    except BadSampleError:
        raise
    except Exception as error:  # numpy parses the header as Python: any error of it is possible
        raise BadSampleError("broken latents", str(error)) from error


@lru_cache(maxsize=64)
def _npy_shape(head: bytes) -> tuple[int, ...]:
    """Shape from the beginning of a float16 .npy file. All latents of a data set begin alike, and
    parsing it takes longer than reading the rest.
    """
    shape, in_columns, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(head[8:]))
    if in_columns or dtype != np.float16:
        raise ValueError(f"{dtype} instead of float16")
    return shape
