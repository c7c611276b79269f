"""Pictures and captions to tensors. Pure functions; what is random comes in as a generator."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def pixel_tensor(image: Image.Image, *, resolution: int, flip: bool) -> Tensor:
    """Short side to `resolution` (bilinear), centre crop, optional mirror, as BK-SDM.

    An RGB picture becomes a float tensor (3, H, W) in [-1, 1].
    """
    scale = resolution / min(image.size)
    size = [max(resolution, round(side * scale)) for side in image.size]
    if tuple(size) != image.size:
        image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    image = image.crop((left, top, left + resolution, top + resolution))
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with this probability. Always draws: later draws do not depend on the setting."""
    return bool(rng.random() < probability)
