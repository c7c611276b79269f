"""What a diffusers folder says of its zeros: `sparsity.json`, beside model_index.json. Stock
diffusers does not look at it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from bksdm.atomic import replacing
from bksdm.errors import InputError
from bksdm.surgery.sparse.plan import ComponentSparsity, SparsityPlan, counted

SPARSITY: Final = "sparsity.json"


def write_sparsity(folder: Path, plan: SparsityPlan) -> None:
    """Say it in a folder."""
    with replacing(folder / SPARSITY) as temporary:
        temporary.write_text(plan.to_json() + "\n")


def folder_sparsity(folder: Path) -> SparsityPlan | None:
    """What a folder says of its zeros; None for one that was not pruned.

    Raises:
        InputError: what it says is no plan.
    """
    path = folder / SPARSITY
    if not path.is_file():
        return None
    try:
        return SparsityPlan.from_json(path.read_text())
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; prune again") from error


def recounted(
    part: ComponentSparsity, network: nn.Module, *, origin: Callable[[str], str] = str
) -> ComponentSparsity:
    """A plan's part, counted anew in a network as it is now.

    Args:
        part: names what was pruned.
        network: the same one, or one that was cut from it.
        origin: the part's name of a tensor of the network.
    """
    asked = {tensor.name: tensor for tensor in part.tensors}
    tensors = tuple(
        counted(name, weight, criterion=told.criterion, requested=told.requested)
        for name, weight in network.state_dict().items()
        if (told := asked.get(origin(name))) is not None
    )
    parameters = sum(each.numel() for each in network.parameters())
    return replace(part, parameters=parameters, tensors=tensors)


def recount(plan: SparsityPlan, networks: Mapping[str, nn.Module]) -> SparsityPlan:
    """The plan of networks as they are now, by component; their tensors have the plan's names."""
    return SparsityPlan(
        components=tuple(recounted(part, networks[part.component]) for part in plan.components)
    )


def nonzero(plan: SparsityPlan | None, unet: nn.Module) -> dict[str, Tensor]:
    """By tensor of a pruned U-Net, where it is not zero (bool, its shape); tensors without a zero
    are left out.
    """
    part, weights = plan and plan.of("unet"), unet.state_dict()
    return (
        {each.name: weights[each.name] != 0 for each in part.tensors if each.zeros} if part else {}
    )
