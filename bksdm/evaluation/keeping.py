"""What happens to a picture between the sampler and the metrics: file format, resize, format again.

FID depends on all of it (Parmar et al., arXiv 2104.11222), so a protocol says it, and real and
generated pictures go through the same code.
"""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bksdm import expected
from bksdm.errors import InputError

RESAMPLING: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How a protocol keeps pictures.

    Attributes:
        jpeg_quality: PIL's quality of the kept JPEG files; None keeps PNG.
        size: side in pixels that a picture is resized to, aspect ratio not kept ("squashed"); None
            keeps its own.
        crop: whether the middle square is cut out of a photograph before the resize, so that
            nothing is squashed; generated pictures are square.
        resample: PIL's filter; PIL's are antialiased.
        jpeg_first: whether a generated picture is a JPEG once before the resize, too, as the
            reference implementation of BK-SDM has it.
    """

    jpeg_quality: int | None = None
    size: int | None = None
    crop: bool = False
    resample: str = "bicubic"
    jpeg_first: bool = False

    def __post_init__(self) -> None:
        expected.one_of("keeping.resample", self.resample, tuple(RESAMPLING))
        expected.switch("keeping.jpeg_first", self.jpeg_first)
        expected.switch("keeping.crop", self.crop)
        if self.size is not None:
            expected.count("keeping.size", self.size, least=1)
        if self.jpeg_quality is not None:
            expected.count("keeping.jpeg_quality", self.jpeg_quality, least=1)
            expected.number("keeping.jpeg_quality", self.jpeg_quality, most=100)
        elif self.jpeg_first:
            raise InputError("keeping.jpeg_first=true: expected keeping.jpeg_quality, too")

    @property
    def suffix(self) -> str:
        """Of the files."""
        return ".png" if self.jpeg_quality is None else ".jpg"

    def generated(self, pixels: Tensor) -> bytes:
        """The file of a generated picture, uint8 (3, H, W)."""
        image = to_image(pixels)
        if self.jpeg_first:
            image = Image.open(io.BytesIO(self._file(image)))
        return self.real(image)

    def real(self, image: Image.Image) -> bytes:
        """The file of a photograph of a reference set."""
        image = image.convert("RGB")
        if self.crop:
            image = _middle(image)
        if self.size is not None and image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), RESAMPLING[self.resample])
        return self._file(image)

    def _file(self, image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        if self.jpeg_quality is None:
            image.save(buffer, "PNG", compress_level=1)
        else:
            image.save(buffer, "JPEG", quality=self.jpeg_quality)
        return buffer.getvalue()


def _middle(image: Image.Image) -> Image.Image:
    """The largest square in the middle, where torchvision's `center_crop` has it."""
    side = min(image.size)
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def read_picture(file: bytes) -> Tensor:
    """The pixels of a kept file, uint8 (3, H, W)."""
    with Image.open(io.BytesIO(file)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def to_image(pixels: Tensor) -> Image.Image:
    """uint8 pixels (3, H, W) as a picture."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
