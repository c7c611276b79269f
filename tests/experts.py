"""What `bksdm route` leaves of experts of the tiny U-Net."""

from pathlib import Path

import numpy as np
import torch

from bksdm.data.index import build_index
from bksdm.data.selection import Selection
from bksdm.surgery.shares import sites_of_config
from bksdm.surgery.width import WidthPlan, plan_of
from tests.conftest import tiny_unet

CHOSEN = (0, 3, 5, 9, 32, 33, 40, 41, 44, 47)  # none of the second shard's
DROPPED = ("down_blocks.1.attentions.1", "up_blocks.1.resnets.2")


def tiny_plan(seed: int = 0, *, kind: str = "sd1") -> WidthPlan:
    """About half of the units of the tiny U-Net, without two modules."""
    sites = sites_of_config(tiny_unet(kind).config)
    gates = torch.rand(sites.gates, generator=torch.Generator().manual_seed(seed)) > 0.5
    for part in sites.slices.values():
        gates[part.start] = True
    gates[sites.units :] = True
    for name in DROPPED:
        gates[sites.depth_positions[name]] = False
    return plan_of(gates, sites)


def write_experts(folder: Path, shards: Path, *, count: int = 2) -> Path:
    """The folders of experts with the same samples."""
    index = build_index(f"{shards}/train-*.tar")
    for i in range(count):
        own = folder / str(i)
        Selection(np.array(CHOSEN), index.fingerprint).write(own / "samples.npz")
        (own / "plan.json").write_text(tiny_plan(i).to_json() + "\n")
    return folder
