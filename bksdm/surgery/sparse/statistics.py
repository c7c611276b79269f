"""What is known of layers' inputs: sums over calibration samples, taken while a network runs.

Memory does not grow with the number of samples. Knows nothing of criteria.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import torch
from torch import Tensor, nn

from bksdm.errors import InputError
from bksdm.surgery.sparse.layers import Layer, input_rows, stage_of

# Bytes that the products X X' of the layers that are pruned together may take.
PRODUCTS_LIMIT: Final = 2 * 2**30
# Of the product of a sample's size and a layer's columns: bounds the patches of a convolution.
_ROWS_LIMIT: Final = 2**34


class Needs(IntEnum):
    """What a criterion must know."""

    NOTHING = 0
    SQUARES = 1
    PRODUCTS = 2


@dataclass(frozen=True)
class CalibrationBatch:
    """One call of the network.

    Attributes:
        call: keyword arguments of its forward; all of B samples.
        progress: (B,), how far each sample's denoising has come, 0 (noise) to 1 (picture); None for
            a text encoder.
    """

    call: Mapping[str, Tensor]
    progress: Tensor | None = None


Calibration = Callable[[], Iterable[CalibrationBatch]]


@dataclass(frozen=True)
class Inputs:
    """Sums over all inputs x (C,) of a layer.

    Attributes:
        squares: of x_j^2, (C,), float64.
        products: of x x', (C, C), float32; None if not asked for.
        rows: how many inputs there were.
        samples: of how many samples.
    """

    squares: Tensor
    products: Tensor | None
    rows: int
    samples: int


class _Sums:
    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.squares: Tensor | None = None
        self.products: Tensor | None = None
        self.rows = self.samples = 0

    def add(self, rows: Tensor, weights: Tensor | None) -> None:
        """Take in (B, positions, C), each sample with its weight."""
        self.samples += len(rows)
        rows = rows.float()
        if weights is not None:
            rows = rows * weights.sqrt().to(rows)[:, None, None]
        rows = rows.flatten(0, 1)
        self.rows += len(rows)
        squares = rows.square().sum(0, dtype=torch.float64)
        self.squares = squares if self.squares is None else self.squares + squares
        if self.needs is Needs.PRODUCTS:
            if self.products is None:
                self.products = rows.new_zeros(rows.shape[1], rows.shape[1])
            self.products.addmm_(rows.T, rows)

    def inputs(self, name: str) -> Inputs:
        if self.squares is None:
            raise InputError(
                f"calibration does not reach {name}, which is not part of the forward; leave it out"
                f" with exclude={name}"
            )
        if not self.squares.isfinite().all():
            raise InputError(
                f"calibration gives {name} inputs that are no numbers, or too large; expected"
                " finite ones: load the model in float32 or bfloat16"
            )
        return Inputs(self.squares, self.products, self.rows, self.samples)


class _ReachedError(Exception):
    """The last layer that is asked for has its inputs."""


@torch.no_grad()
def layer_inputs(
    network: nn.Module,
    layers: Mapping[str, Layer],
    calibration: Calibration,
    *,
    needs: Needs,
    weights: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Inputs]:
    """Sums over the inputs of some layers; the network runs as far as the last of them.

    Args:
        network: it.
        layers: of it, in the order of the forward.
        calibration: gives the calls, the same at each time.
        needs: squares, or products, too.
        weights: progress (B,) to weights of samples (B,); None weighs all the same.

    Raises:
        InputError: a layer is not reached, or there are too few inputs for it.
    """
    sums = {name: _Sums(needs) for name in layers}
    last = list(layers)[-1]
    with ExitStack() as hooks:
        scale: list[Tensor | None] = [None]
        for name, layer in layers.items():
            hook = _hook(layer, sums[name], scale, stop=name == last)
            hooks.enter_context(layer.register_forward_pre_hook(hook))
        for batch in calibration():
            known = weights is not None and batch.progress is not None
            scale[0] = weights(batch.progress) if known else None  # type: ignore[misc, arg-type]
            try:
                network(**batch.call)
            except _ReachedError:
                continue
    found = {name: each.inputs(name) for name, each in sums.items()}
    _refuse_few(found, needs)
    return found


def _hook(
    layer: Layer, sums: _Sums, scale: Sequence[Tensor | None], *, stop: bool
) -> Callable[..., None]:
    def take(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module
        given, weights = inputs[0], scale[0]
        count = max(1, _ROWS_LIMIT // (layer.weight[0].numel() * max(1, given[0].numel())))
        for start in range(0, len(given), count):
            part = slice(start, start + count)
            rows = input_rows(layer, given[part])
            sums.add(rows, None if weights is None else weights[part])
        if stop:
            raise _ReachedError

    return take


def _refuse_few(found: Mapping[str, Inputs], needs: Needs) -> None:
    """Fewer inputs than columns leave most of a Hessian to the damping. Of layers that see one
    input a sample (embeddings of the timestep) more would not help: their inputs lie on a curve.
    """
    for name, inputs in found.items():
        few = inputs.rows < len(inputs.squares) and inputs.rows > inputs.samples
        if needs is Needs.PRODUCTS and few:
            raise InputError(
                f"calibration gives {name} {inputs.rows:,} inputs of {len(inputs.squares):,}"
                " columns; expected at least as many: raise calibration.prompts.count"
            )


@torch.no_grad()
def in_forward_order(
    network: nn.Module, layers: Mapping[str, Layer], calibration: Calibration
) -> dict[str, Layer]:
    """The layers in the order in which the network calls them.

    Raises:
        InputError: one is not called.
    """
    order: list[str] = []
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(
                layer.register_forward_pre_hook(lambda *_, name=name: order.append(name))
            )
        network(**next(iter(calibration())).call)
    for name in layers:
        if name not in order:
            _Sums(Needs.NOTHING).inputs(name)
    return {name: layers[name] for name in dict.fromkeys(order)}


def packages(layers: Mapping[str, Layer], needs: Needs) -> list[dict[str, Layer]]:
    """Layers in their order, cut into those that are pruned together: of one stage, and of which
    the products fit in `PRODUCTS_LIMIT`.
    """
    found: list[dict[str, Layer]] = []
    stage, used = None, 0
    for name, layer in layers.items():
        columns = layer.weight[0].numel()
        size = 4 * columns**2 * (needs is Needs.PRODUCTS)
        if stage_of(name) != stage or used + size > PRODUCTS_LIMIT:
            found.append({})
            stage, used = stage_of(name), 0
        found[-1][name] = layer
        used += size
    return found
