"""That a pruned pipeline's folder holds its weights: every tensor bit for bit, with the zeros of
its plan; and what stock diffusers should draw from it.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn

from bksdm.export.packed import bits_of, rounded
from bksdm.export.proof import Claim
from bksdm.export.stranger import picture
from bksdm.export.unpacked import packed_tensors
from bksdm.models.source import NARROW, PACKED
from bksdm.surgery.sparse.plan import ComponentSparsity, SparsityPlan, check_masks


def shadow(network: nn.Module, *dtypes: torch.dtype) -> Any:
    """A copy of a network that shares all weights which rounding to these types, one after the
    other, does not change: `copy.deepcopy` copies nothing that it is told of.
    """
    told: dict[int, Tensor] = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        value = tensor.detach()
        for dtype in dtypes:
            value = rounded(name, value, dtype)
        same = value.data_ptr() == tensor.data_ptr() and value.dtype == tensor.dtype
        parameter = isinstance(tensor, nn.Parameter)
        new = nn.Parameter(value, requires_grad=False) if parameter else value
        told[id(tensor)] = tensor if same else new
    return copy.deepcopy(network, told)


def compare_folder(
    pipeline: StableDiffusionPipeline, folder: Path, plan: SparsityPlan, dtype: torch.dtype
) -> None:
    """Raise unless every network of a folder reloads as it is here, rounded, with the plan's zeros.

    Raises:
        RuntimeError: a tensor is another one, or is missing.
        InputError: it is not zero where the plan says.
    """
    for name, network in pipeline.components.items():
        if not isinstance(network, nn.Module):
            continue
        written: Iterable[tuple[str, Tensor]]
        if (folder / name / PACKED).is_file():
            written = packed_tensors(folder / name / PACKED)
        elif (folder / name / NARROW).is_file():
            written = load_file(folder / name / NARROW).items()
        else:
            kind: Any = type(network)
            loaded = kind.from_pretrained(folder / name, dtype=dtype)
            written = loaded.state_dict().items()
        _compare_tensors(name, written, network.state_dict(), plan.of(name), dtype)


def _compare_tensors(
    name: str,
    written: Iterable[tuple[str, Tensor]],
    here: dict[str, Tensor],
    part: ComponentSparsity | None,
    dtype: torch.dtype,
) -> None:
    pruned = {each.name: each for each in part.tensors} if part is not None else {}
    for tensor_name, tensor in written:
        other = here.pop(tensor_name, None)
        if other is None or not _same_bits(tensor, rounded(tensor_name, other, dtype)):
            raise RuntimeError(f"{name} {tensor_name} does not reload as it was in memory")
        if part is not None and tensor_name in pruned:  # one at a time: they need not be all there
            single = replace(part, tensors=(pruned[tensor_name],))
            check_masks(single, [(tensor_name, tensor)])
    if here:
        raise RuntimeError(f"{name} {min(here)} was not written")


def _same_bits(one: Tensor, other: Tensor) -> bool:
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and np.array_equal(bits_of(one), bits_of(other))


def claim_of(pipeline: StableDiffusionPipeline, folder: Path, dtype: torch.dtype) -> Claim:
    """What stock diffusers should draw from a dense folder with weights of `dtype`."""
    # In float32, as the stranger draws: with half precision's weights if those are written.
    networks = {
        name: shadow(each, dtype, torch.float32) if isinstance(each, nn.Module) else each
        for name, each in pipeline.components.items()
    }
    alike = StableDiffusionPipeline(
        **networks | {"safety_checker": None}, requires_safety_checker=False
    )
    return Claim(path=folder, expected=picture(alike), config=dict(pipeline.unet.config))
