"""How a picture becomes a network's input: resize, crop, normalisation, as its authors do it.

PIL's resizes of uint8 pictures, which are what torchvision's transforms on PIL pictures call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bksdm.errors import InputError
from bksdm.evaluation.keeping import to_image

# Means and standard deviations of the channels.
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class Fit(StrEnum):
    """How a picture becomes a square; the same for one that is square."""

    SHORTEST = "shortest side resized, then centre crop"
    CROP = "centre crop to a square, then resize"
    SQUASH = "resized to a square, aspect ratio not kept"


@dataclass(frozen=True, kw_only=True)
class Input:
    """A network's input.

    Attributes:
        size: its side in pixels.
        fit: how it becomes a square of that side, PIL's bicubic filter.
        mean: of the channels, of values 0 to 1.
        std: likewise.
    """

    size: int
    fit: Fit
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def words(self) -> str:
        """For results, and for reference sets to agree on."""
        return f"{self.size} px, {self.fit}, PIL bicubic, mean {self.mean}, std {self.std}"

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) on any device to float32 (N, 3, size, size) on the CPU."""
        resized = [_FITS[self.fit](to_image(each), self.size) for each in pixels.cpu()]
        stacked = torch.from_numpy(np.stack([np.asarray(each) for each in resized]))
        return normalised(stacked.permute(0, 3, 1, 2).float() / 255, self.mean, self.std)


def normalised(values: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Values 0 to 1 (N, 3, H, W), less the channels' means, in their standard deviations."""
    shift, scale = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
    return (values - shift) / scale


def clip_input(settings: Mapping[str, Any], *, of: str) -> Input:
    """What a `preprocessor_config.json` of CLIP says.

    Raises:
        InputError: something else than CLIP's preprocessing.
    """
    crop, resample = _side(settings.get("crop_size", 224)), settings.get("resample", 3)
    if _side(settings.get("size", crop)) != crop or resample != Image.Resampling.BICUBIC:
        raise InputError(
            f"weights {of}: preprocessor_config.json has size {settings.get('size')}, crop_size"
            f" {settings.get('crop_size')}, resample {resample}; expected CLIP's: equal sizes,"
            " bicubic (3)"
        )
    return Input(
        size=crop,
        fit=Fit.SHORTEST,
        mean=tuple(settings.get("image_mean", CLIP_MEAN)),
        std=tuple(settings.get("image_std", CLIP_STD)),
    )


def _side(size: Any) -> Any:
    if isinstance(size, Mapping):
        return size.get("shortest_edge", size.get("height"))
    return size


def _shortest(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    if short != size:
        wide, high = int(size * width / short), int(size * height / short)
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _crop(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _squash(image.crop((left, top, left + side, top + side)), size)


def _squash(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


_FITS: Final[Mapping[Fit, Callable[[Image.Image, int], Image.Image]]] = {
    Fit.SHORTEST: _shortest,
    Fit.CROP: _crop,
    Fit.SQUASH: _squash,
}
