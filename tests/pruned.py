"""Pruned diffusers folders: the smallest weights of linear layers are zero."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from bksdm.surgery.sparse.plan import ComponentSparsity, SparsityPlan, counted

SHARE = 0.5


def prune(
    source: Path, folder: Path, components: Sequence[str] = ("text_encoder", "unet")
) -> SparsityPlan:
    """Write a pruned copy, with the plan that it returns beside model_index.json."""
    pipeline = StableDiffusionPipeline.from_pretrained(source, safety_checker=None)
    plan = SparsityPlan(
        components=tuple(
            zeroed(component, getattr(pipeline, component)) for component in components
        )
    )
    pipeline.save_pretrained(folder)
    (folder / "sparsity.json").write_text(plan.to_json())
    return plan


@torch.no_grad()
def zeroed(component: str, network: nn.Module) -> ComponentSparsity:
    """Zero half of each linear layer, in place."""
    tensors = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            smallest = module.weight.abs().flatten().argsort()[: module.weight.numel() // 2]
            module.weight.view(-1)[smallest] = 0
            told = {"criterion": "magnitude", "requested": SHARE}
            tensors.append(counted(f"{name}.weight", module.weight, **told))
    parameters = sum(each.numel() for each in network.parameters())
    return ComponentSparsity(
        component=component, requested=SHARE, parameters=parameters, tensors=tuple(tensors)
    )
