"""CMMD: maximum mean discrepancy between two sets of CLIP vectors.

Jayasumana et al., arXiv 2401.09603. The kernel is exp(-|x - y|^2 / (2 sigma^2)) with sigma = 10 on
unit vectors, where it is nearly linear: CMMD is about 10 times the squared distance of the sets'
means. It sees a shift, and hardly sees lost diversity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from bksdm.evaluation.measures.feature_set import FeatureSet
from bksdm.evaluation.measures.features import FEATURES
from bksdm.evaluation.reference import ReferenceSetting
from bksdm.evaluation.score import Better, Score

SIGMA: Final = 10.0
SCALE: Final = 1000.0
_BLOCK: Final = 2048  # rows of the kernel's matrix at once: 32 MiB a block

# N and M pictures, D dimensions


@dataclass(frozen=True)
class Discrepancy:
    """Of two sets.

    Attributes:
        biased: the V-statistic, which papers print: at least 0, and larger for small sets.
        unbiased: the U-statistic; NaN where a set has one picture.
    """

    biased: float
    unbiased: float


@dataclass(frozen=True, kw_only=True)
class Cmmd:
    """The discrepancy of the model's pictures and a reference set's.

    Attributes:
        reference: a file, "baseline", or reference pictures.
        name: of the score; the unbiased one has "unbiased" behind it.
        layer: of the network.
    """

    reference: ReferenceSetting
    name: str = "CMMD"
    layer: str = FEATURES

    needs_rows: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        """Of its scores."""
        return (self.name, f"{self.name} unbiased")

    def scores(self, model: FeatureSet, reference: FeatureSet | None) -> Sequence[Score]:
        """Both estimates; no interval is known for a single sample."""
        assert reference is not None
        assert model.rows is not None
        assert reference.rows is not None
        found = discrepancy(model.rows, reference.rows)
        details = {"reference_pictures": reference.n, "sigma": SIGMA, "scale": SCALE}
        return [
            Score(name=name, value=value, better=Better.LOWER, n=model.n, details=details)
            for name, value in zip(self.names, (found.biased, found.unbiased), strict=True)
        ]


def discrepancy(first: Tensor, second: Tensor) -> Discrepancy:
    """Of vectors (N, D) and (M, D), in float64; NaN of an empty set.

    Gretton et al., JMLR 13 (2012), equations 5 (biased) and 3 (unbiased).
    """
    n, m = len(first), len(second)
    if not (n and m):
        return Discrepancy(float("nan"), float("nan"))
    within, beyond = _kernel_sum(first, first), _kernel_sum(second, second)
    cross = 2 * _kernel_sum(first, second) / (n * m)
    unbiased = float("nan")
    if n > 1 and m > 1:  # a vector's kernel with itself is 1
        unbiased = (within - n) / (n * (n - 1)) + (beyond - m) / (m * (m - 1)) - cross
    return Discrepancy(SCALE * (within / n**2 + beyond / m**2 - cross), SCALE * unbiased)


def _kernel_sum(first: Tensor, second: Tensor) -> float:
    """Sum of the kernel over all pairs, a block of pairs at a time."""
    total = 0.0
    for start in range(0, len(first), _BLOCK):
        rows = first[start : start + _BLOCK].double()
        for other in range(0, len(second), _BLOCK):
            others = second[other : other + _BLOCK].double()
            squares = rows.square().sum(1)[:, None] + others.square().sum(1)[None, :]
            distances = squares - 2 * rows @ others.T
            total += float(torch.exp(distances / (-2 * SIGMA**2)).sum())
    return total
