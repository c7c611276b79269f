"""Pictures that the page carries in itself."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

SIDE: Final = 256  # px, at most
AS_IT_IS: Final = 128  # px: pictures up to this stay the file's own bytes, and are shown enlarged
_WEBP_QUALITY: Final = 80
_TYPES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """A picture in a page.

    Attributes:
        uri: its data.
        width: in pixels.
        height: in pixels.
        small: whether it is shown with its pixels.
    """

    uri: str
    width: int
    height: int
    small: bool


def picture(path: Path | None) -> Picture | None:
    """The picture of a file, made smaller where it is large; None if it is gone or damaged."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if max(image.size) <= AS_IT_IS and image.format in _TYPES:
                return Picture(_uri(_TYPES[image.format], data), *image.size, small=True)
            shown = image.convert("RGB")
    except (OSError, ValueError, SyntaxError):  # PIL says SyntaxError of damaged PNGs
        return None
    small = max(shown.size) <= AS_IT_IS
    shown.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=_WEBP_QUALITY)
    return Picture(_uri(_TYPES["WEBP"], buffer.getvalue()), *shown.size, small=small)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
