"""Pictures and captions to tensors. Pure functions; what is random comes in as a generator."""

from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Enlarged to the resolution, a strip of 60,000 x 1 pixels would fill 47 GB before it is cropped.
_MAX_RATIO: Final = 16


def cropped(image: Image.Image, *, resolution: int) -> Image.Image:
    """Short side to `resolution` (bilinear), centre crop, as BK-SDM."""
    limit = _MAX_RATIO * min(image.size)
    if max(image.size) > limit:
        image = _center(image, min(image.width, limit), min(image.height, limit))
    scale = resolution / min(image.size)
    size = [max(resolution, round(side * scale)) for side in image.size]
    if tuple(size) != image.size:
        image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    return _center(image, resolution, resolution)


def _center(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def byte_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as uint8 (3, H, W)."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def scaled(pixels: Tensor) -> Tensor:
    """uint8 to float in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def pixel_tensor(image: Image.Image, *, resolution: int, flip: bool) -> Tensor:
    """An RGB picture as float (3, resolution, resolution) in [-1, 1], mirrored if asked."""
    image = cropped(image, resolution=resolution)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return scaled(byte_tensor(image))
