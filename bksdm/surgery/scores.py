"""What each unit of a U-Net's width sites is worth, for plans that are made without training."""

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
