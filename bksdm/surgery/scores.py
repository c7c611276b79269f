"""What each unit of a U-Net's width sites is worth, for plans that are made without training."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from bksdm.surgery.narrow import cut_tensors
from bksdm.surgery.sites import Sites
from bksdm.surgery.width import WidthPlan


@torch.no_grad()
def magnitudes(unet: UNet2DConditionModel, sites: Sites) -> Tensor:
    """(units,), the root mean square of all weights that go with a unit, over that of its site:
    what magnitude pruning of structures ranks by (as Diff-Pruning's baseline does), made comparable
    between sites.
    """
    scores = torch.zeros(sites.units)
    for site in sites.width:
        squares = []
        for unit in range(site.units):
            alone = WidthPlan(kept={site.name: (unit,)})
            parts = [
                unet.get_parameter(name)[index]
                for name, index in cut_tensors(unet, sites, alone).items()
                if name.endswith("weight")
            ]
            count = sum(part.numel() for part in parts)
            squares.append(sum(part.double().square().sum() for part in parts) / count)
        found = torch.stack([torch.as_tensor(square) for square in squares]).cpu()
        scores[sites.slices[site.name]] = (found / found.mean()).sqrt().float()
    return scores


class Worth(ABC):
    """How units are ranked."""

    @abstractmethod
    def scores(self, unet: UNet2DConditionModel, sites: Sites, *, seed: int) -> Tensor:
        """(units,), the higher the later a unit goes."""


@dataclass(frozen=True)
class Magnitude(Worth):
    """By `magnitudes`."""

    def scores(self, unet: UNet2DConditionModel, sites: Sites, *, seed: int) -> Tensor:
        """See `Worth`; the seed makes no difference."""
        del seed
        return magnitudes(unet, sites)


@dataclass(frozen=True)
class Chance(Worth):
    """At random: what any other ranking has to beat."""

    def scores(self, unet: UNet2DConditionModel, sites: Sites, *, seed: int) -> Tensor:
        """See `Worth`."""
        del unet
        return torch.rand(sites.units, generator=torch.Generator().manual_seed(seed))
