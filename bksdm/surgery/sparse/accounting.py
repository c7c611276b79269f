"""What a sparsity is a share of: every way of counting, side by side.

The headline of arXiv 2411.15113, "38.5 %", is the requested sparsities weighted by whole component
sizes; of all weights of text encoder and U-Net 20.1 % are zero there, as only linear layers are
pruned.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bksdm.surgery.sparse.budget import Granularity, drop_count
from bksdm.surgery.sparse.layers import Layer
from bksdm.surgery.sparse.method import Method
from bksdm.surgery.sparse.plan import (
    COMPONENTS,
    ComponentSparsity,
    SparsityPlan,
    TensorSparsity,
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of weights of a pipeline's networks."""

    text_encoder: int
    unet: int
    vae: int


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """A plan, counted in every way; shares are 0 to 1.

    Attributes:
        requested: by component.
        in_tensors: zeros among the weights of the pruned tensors, by component.
        in_component: zeros among all weights, by component.
        nominal: the requested ones, weighted by whole component sizes, text encoder + U-Net (as the
            paper).
        pruned_tensors: zeros among the weights of all pruned tensors.
        both: zeros among all weights of text encoder + U-Net.
        with_vae: of text encoder + U-Net + VAE.
        zeros: their number.
        dense_bytes: text encoder + U-Net as they are.
        packed_bytes: with a bit for each weight of the tensors that become smaller so, and their
            other weights.
    """

    requested: Mapping[str, float]
    in_tensors: Mapping[str, float]
    in_component: Mapping[str, float]
    nominal: float
    pruned_tensors: float
    both: float
    with_vae: float
    zeros: int
    dense_bytes: int
    packed_bytes: int


def accounting(plan: SparsityPlan, sizes: Sizes, *, bytes_a_weight: int) -> Accounting:
    """A plan for a pipeline of these sizes, stored with so many bytes a weight."""
    whole = {name: getattr(sizes, name) for name in COMPONENTS}
    total = sum(whole.values())
    requested = dict.fromkeys(COMPONENTS, 0.0)
    zeros = dict.fromkeys(COMPONENTS, 0)
    prunable = dict.fromkeys(COMPONENTS, 0)
    saved = 0
    for part in plan.components:
        requested[part.component] = part.requested
        zeros[part.component], prunable[part.component] = part.zeros, part.prunable
        saved += sum(saved_bytes(each, bytes_a_weight) for each in part.tensors)
    every = sum(zeros.values())
    return Accounting(
        requested=requested,
        in_tensors={n: zeros[n] / prunable[n] if prunable[n] else 0.0 for n in COMPONENTS},
        in_component={n: zeros[n] / whole[n] for n in COMPONENTS},
        nominal=sum(requested[n] * whole[n] for n in COMPONENTS) / total,
        pruned_tensors=every / sum(prunable.values()) if any(prunable.values()) else 0.0,
        both=every / total,
        with_vae=every / (total + sizes.vae),
        zeros=every,
        dense_bytes=total * bytes_a_weight,
        packed_bytes=total * bytes_a_weight - saved,
    )


def saved_bytes(tensor: TensorSparsity, bytes_a_weight: int) -> int:
    """What a bit mask and the other weights alone save of a tensor; nothing where it is more."""
    return max(0, tensor.zeros * bytes_a_weight - math.ceil(tensor.size / 8))


def planned(
    layers: Mapping[str, Layer],
    *,
    component: str,
    parameters: int,
    sparsity: float,
    method: Method,
) -> ComponentSparsity:
    """What a network would have of zeros, counted without weights (on the meta device): by tensor,
    or by row. What an allocation or one threshold for all moves between tensors is not known.
    """
    by_row = method.granularity is Granularity.ROW and method.pattern is None

    def zeros(layer: Layer) -> int:
        rows, columns = len(layer.weight), layer.weight[0].numel()
        if by_row:
            return rows * drop_count(sparsity, columns)
        return drop_count(sparsity, rows * columns)

    return ComponentSparsity(
        component=component,
        requested=sparsity,
        parameters=parameters,
        tensors=tuple(
            TensorSparsity(
                name=f"{name}.weight",
                shape=tuple(layer.weight.shape),
                criterion=method.words,
                requested=sparsity,
                zeros=zeros(layer),
            )
            for name, layer in layers.items()
        ),
    )
