"""Pictures and scenes of the embedded world as tensors."""

import numpy as np
import torch
from torch import Tensor

from bksdm.data.shapes import COLORS, Scene, samples


def pictures(count: int, *, seed: int, held_out: bool = False) -> tuple[list[Scene], Tensor]:
    """Scenes and their pictures, uint8 of shape (count, 3, 64, 64)."""
    scenes, arrays = [], []
    for scene, image in samples(count, seed=seed, held_out=held_out):
        scenes.append(scene)
        arrays.append(np.asarray(image))
    return scenes, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def scaled(pixels: Tensor) -> Tensor:
    """uint8 pixels as floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def backgrounds(scenes: list[Scene]) -> Tensor:
    """Background colours as uint8 of shape (count, 3, 1, 1)."""
    return torch.tensor([COLORS[scene.background] for scene in scenes], dtype=torch.uint8)[
        :, :, None, None
    ]
