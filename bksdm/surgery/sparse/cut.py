"""Zero the weights of a network, in place, tensor by tensor, and count what has become zero.

selection  which layers            budget      how many, among which
criterion  which weights           allocation  which layers lose more
calibration  what the layers see, counted anew after everything before them is pruned
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from bksdm.errors import InputError
from bksdm.models.cost import parameter_count
from bksdm.surgery.sparse.budget import (
    Budget,
    Cut,
    Granularity,
    check_pattern,
    component_cut,
    drop_count,
    kept_above,
)
from bksdm.surgery.sparse.criteria import Criterion, Obs, Scoring, zeroed
from bksdm.surgery.sparse.layers import Layer, from_matrix, matrix
from bksdm.surgery.sparse.method import Method
from bksdm.surgery.sparse.plan import ComponentSparsity, TensorSparsity, counted
from bksdm.surgery.sparse.statistics import (
    Calibration,
    Inputs,
    Needs,
    in_forward_order,
    layer_inputs,
    packages,
)

ALREADY: Final = 0.01  # share of zeros above which a network is taken for pruned


@torch.no_grad()
def prune(
    network: nn.Module,
    layers: Mapping[str, Layer],
    *,
    component: str,
    sparsity: float,
    method: Method,
    calibration: Calibration | None = None,
    seed: int = 0,
    already_sparse: bool = False,
) -> ComponentSparsity:
    """Zero weights of some layers of a network, in place.

    Args:
        network: a text encoder or a U-Net, in eval mode.
        layers: of it, by name (`layers.prunable`).
        component: "text_encoder" or "unet".
        sparsity: share of zeros, of all these weights.
        method: which weights.
        calibration: calls of the network; not needed where the method knows nothing of inputs.
        seed: of what is random.
        already_sparse: whether a network that has zeros will do.

    Returns:
        What is zero now, counted.

    Raises:
        InputError: the network cannot be pruned so; it is as it was, unless calibration was at
            fault.
    """
    check_prunable(layers, component, method, already_sparse=already_sparse)
    budget = method.budget(sparsity)
    if method.granularity is Granularity.COMPONENT and method.pattern is None:
        found = _across(network, layers, method, budget, calibration, seed)
    else:
        found = _one_by_one(network, layers, method, budget, calibration, seed)
    return ComponentSparsity(
        component=component,
        requested=sparsity,
        parameters=parameter_count(network),
        tensors=tuple(found),
        method=f"{method}, seed={seed}",
    )


def _one_by_one(
    network: nn.Module,
    layers: Mapping[str, Layer],
    method: Method,
    budget: Budget,
    calibration: Calibration | None,
    seed: int,
) -> list[TensorSparsity]:
    """A threshold for each tensor or row; inputs are those that the pruned layers before make."""
    criterion = method.criterion
    known = _dense_inputs(network, layers, calibration, method, method.allocation.needs)
    shares = method.allocation.shares(layers, known, budget.sparsity)
    ordered = layers
    if criterion.needs:
        ordered = in_forward_order(network, layers, _given(calibration, method))
    found = {}
    for package in packages(ordered, criterion.needs):
        inputs = _inputs(network, package, calibration, criterion)
        for name, layer in package.items():
            own = replace(budget, sparsity=shares[name])
            old = matrix(layer.weight).float()
            new = criterion.cut(old, inputs.pop(name, None), own, _generator(seed, name))
            found[name] = _written(name, layer, new, method, shares[name])
    return [found[name] for name in layers]


def _across(
    network: nn.Module,
    layers: Mapping[str, Layer],
    method: Method,
    budget: Budget,
    calibration: Calibration | None,
    seed: int,
) -> list[TensorSparsity]:
    """One threshold for all; inputs are those of the dense network."""
    criterion = method.criterion
    assert isinstance(criterion, Scoring)
    known = _dense_inputs(network, layers, calibration, method, criterion.needs)

    def scored(name: str) -> Tensor:
        weight = matrix(layers[name].weight).float()
        return criterion.scores(weight, known.get(name), _generator(seed, name))

    def scores() -> Iterator[Tensor]:
        return map(scored, layers)

    drop = drop_count(budget.sparsity, sum(each.weight.numel() for each in layers.values()))
    cut = component_cut(scores, drop) if drop else Cut(float("-inf"), 0)
    found = []
    for name, layer in layers.items():
        stay, cut = kept_above(scored(name), cut)
        new = zeroed(matrix(layer.weight).float(), stay)
        found.append(_written(name, layer, new, method, budget.sparsity))
    return found


def _inputs(
    network: nn.Module,
    package: Mapping[str, Layer],
    calibration: Calibration | None,
    criterion: Criterion,
) -> dict[str, Inputs]:
    """Of layers in the order of the forward."""
    if not criterion.needs:
        return {}
    assert calibration is not None
    weights = criterion.timestep_weights if isinstance(criterion, Obs) else None
    return layer_inputs(network, package, calibration, needs=criterion.needs, weights=weights)


def _dense_inputs(
    network: nn.Module,
    layers: Mapping[str, Layer],
    calibration: Calibration | None,
    method: Method,
    needs: Needs,
) -> dict[str, Inputs]:
    """Of all layers, as they are before any is pruned."""
    if not needs:
        return {}
    given = _given(calibration, method)
    return layer_inputs(network, in_forward_order(network, layers, given), given, needs=needs)


def _given(calibration: Calibration | None, method: Method) -> Calibration:
    if calibration is None:
        raise InputError(f"criterion {method.name} needs calibration; give calibration=")
    return calibration


def _written(
    name: str, layer: Layer, new: Tensor, method: Method, requested: float
) -> TensorSparsity:
    layer.weight.copy_(from_matrix(new.to(layer.weight.dtype), layer.weight.shape))
    tensor = f"{name}.weight"
    return counted(tensor, layer.weight, criterion=method.words, requested=requested)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4]))


def check_prunable(
    layers: Mapping[str, Layer], component: str, method: Method, *, already_sparse: bool
) -> None:
    """Refuse weights that cannot be ordered or grouped, and a network that has zeros already.

    Raises:
        InputError: names the layer or the component.
    """
    zeros = size = 0
    for name, layer in layers.items():
        if not torch.stack(torch.aminmax(layer.weight.detach())).isfinite().all():
            raise InputError(
                f"{component} {name}.weight has values that are no numbers, which have no order;"
                " load the model in another precision, or leave it out with exclude="
            )
        if method.pattern is not None:
            check_pattern(method.pattern, name, layer.weight.shape[1])
        zeros += layer.weight.numel() - int(layer.weight.count_nonzero())
        size += layer.weight.numel()
    if zeros > ALREADY * size and not already_sparse:
        raise InputError(
            f"of the {component}'s weights that may be pruned {100 * zeros / size:.1f} % are"
            " zeros already; expected a dense model, or already_sparse=true, which counts a"
            " tensor's zeros among those that are asked of it"
        )


@contextmanager
def dense_again(layers: Mapping[str, Layer]) -> Iterator[None]:
    """Their weights are what they were before when the block ends; takes memory for a copy."""
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                layers[name].weight.copy_(weight)
