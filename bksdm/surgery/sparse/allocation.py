"""How a network's sparsity is shared out among its layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from bksdm import expected
from bksdm.surgery.sparse.criteria import wanda_scores
from bksdm.surgery.sparse.layers import Layer, block_of, matrix
from bksdm.surgery.sparse.statistics import Inputs, Needs


class Allocation(Protocol):
    """Settings: a frozen dataclass that conf/criterion/*.yaml names by `_target_`."""

    @property
    def needs(self) -> Needs:
        """What it must know of all layers' inputs before any is pruned."""

    def shares(
        self, layers: Mapping[str, Layer], inputs: Mapping[str, Inputs], sparsity: float
    ) -> dict[str, float]:
        """The sparsity of each layer; over all weights they make `sparsity`."""


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every layer the same."""

    needs: ClassVar[Needs] = Needs.NOTHING

    def shares(
        self, layers: Mapping[str, Layer], inputs: Mapping[str, Inputs], sparsity: float
    ) -> dict[str, float]:
        """See `Allocation.shares`."""
        del inputs
        return dict.fromkeys(layers, sparsity)


@dataclass(frozen=True, kw_only=True)
class Owl:
    """More stays where a block has more outliers (OWL, Yin et al., arXiv 2310.05175).

    D_l is the share of a block's Wanda scores above `outlier` times the block's mean. Blocks keep
    1 - s + 2 span (D_l - mean D) / (max D - min D), with the mean over all weights, so that the
    whole has sparsity s also where blocks differ in size.

    Attributes:
        span: half of the range of sparsities (their lambda).
        outlier: times the mean (their M).
    """

    span: float = 0.08
    outlier: float = 7.0

    needs: ClassVar[Needs] = Needs.SQUARES

    def __post_init__(self) -> None:
        expected.number("allocation.span", self.span, least=0, below=0.5)
        expected.number("allocation.outlier", self.outlier, above=0)

    def shares(
        self, layers: Mapping[str, Layer], inputs: Mapping[str, Inputs], sparsity: float
    ) -> dict[str, float]:
        """See `Allocation.shares`."""
        blocks: dict[str, list[str]] = {}
        for name in layers:
            blocks.setdefault(block_of(name), []).append(name)
        shares = [
            outlier_share(
                {n: wanda_scores(matrix(layers[n].weight.detach()).float(), inputs[n]) for n in ns},
                times=self.outlier,
            )
            for ns in blocks.values()
        ]
        sizes = [sum(layers[name].weight.numel() for name in names) for names in blocks.values()]
        found = owl_sparsities(shares, sizes, sparsity=sparsity, span=self.span)
        return {
            name: each for names, each in zip(blocks.values(), found, strict=True) for name in names
        }


def outlier_share(scores: Mapping[str, Tensor], *, times: float) -> float:
    """Share of a block's scores above `times` their mean."""
    size = sum(each.numel() for each in scores.values())
    mean = sum(float(each.sum(dtype=torch.float64)) for each in scores.values()) / size
    return sum(int((each > times * mean).sum()) for each in scores.values()) / size


def owl_sparsities(
    shares: list[float], sizes: list[int], *, sparsity: float, span: float
) -> list[float]:
    """Each block's sparsity from its share of outliers.

    Args:
        shares: of outliers.
        sizes: of blocks, in weights.
        sparsity: of all weights together.
        span: half of the range; narrowed where a block would leave [0, 1).
    """
    low, high = min(shares), max(shares)
    if high == low:
        return [sparsity] * len(shares)
    mean = sum(share * size for share, size in zip(shares, sizes, strict=True)) / sum(sizes)
    moves = [2 * (mean - share) / (high - low) for share in shares]  # for a span of 1
    room = [(1 - 1e-6 - sparsity) / max(moves), sparsity / -min(moves)]
    width = min(span, *room)
    return [sparsity + width * move for move in moves]
