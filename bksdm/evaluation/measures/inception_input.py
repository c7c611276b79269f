"""Pictures as input of FID's Inception: 299 pixels a side, in one of three published ways.

They differ by whole points of FID when pictures are made smaller (Parmar et al., arXiv 2104.11222).
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIDE: Final = 299


def pytorch_fid(pixels: Tensor, device: torch.device) -> Tensor:
    """As pytorch-fid 0.3: bilinear without antialiasing, then to [-1, 1]; float (N, 3, 299, 299)
    of uint8 (N, 3, H, W).
    """
    shares = pixels.to(device).float() / 255
    resized = F.interpolate(shares, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return 2 * resized - 1


def clean(pixels: Tensor, device: torch.device) -> Tensor:
    """As clean-fid: each channel with PIL's bicubic in float, antialiased, cut to [0, 255] but not
    rounded.
    """
    planes = [
        _resized_plane(plane)
        for picture in pixels.cpu().numpy().astype(np.float32)
        for plane in picture
    ]
    stacked = np.stack(planes).reshape(len(pixels), 3, SIDE, SIDE)
    return _as_tensorflow(torch.from_numpy(stacked).to(device))


def tensorflow(pixels: Tensor, device: torch.device) -> Tensor:
    """As torch-fidelity: TensorFlow 1's bilinear, whose grid starts at the corner."""
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x as bilinear,
    )

    floats = pixels.to(device).float()
    return _as_tensorflow(bilinear(floats, size=(SIDE, SIDE), align_corners=False))


INPUTS: Final[Mapping[str, Callable[[Tensor, torch.device], Tensor]]] = {
    "pytorch_fid": pytorch_fid,
    "clean": clean,
    "tensorflow": tensorflow,
}


def _resized_plane(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    image = Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(0, 255)


def _as_tensorflow(values: Tensor) -> Tensor:
    """[0, 255] as the graph scales it."""
    return (values - 128) / 128
