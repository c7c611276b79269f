"""How many weights go, and among which they are chosen: masks from scores.

Counts are exact: of n weights at sparsity s, floor(s n) go, and of weights with equal scores the
first go first. A threshold alone (the published code zeroes everything up to it) would let ties,
which half precision makes often, push the count above what was asked for.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

import torch
from torch import Tensor

from bksdm import expected
from bksdm.errors import InputError


class Granularity(StrEnum):
    """Among which weights the lowest scores are found."""

    TENSOR = "tensor"
    ROW = "row"  # of an output
    COMPONENT = "component"  # of the whole network


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """N:M sparsity: of each m weights in a row, n stay."""

    n: int
    m: int

    @classmethod
    def parsed(cls, text: str) -> "Pattern":
        """Of "2:4".

        Raises:
            InputError: something else.
        """
        parts = text.split(":")
        if len(parts) != 2 or not all(part.isdecimal() for part in parts):
            raise InputError(f"pattern={text}: expected N:M, such as 2:4 or 4:8")
        n, m = map(int, parts)
        if not 0 < n < m:
            raise InputError(f"pattern={text}: expected N below M and above 0, such as 2:4 or 4:8")
        return cls(n=n, m=m)

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return 1 - self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What must go of one weight matrix.

    Attributes:
        sparsity: share of zeros.
        granularity: tensor or row; not looked at with a pattern.
        pattern: N:M, or None.
    """

    sparsity: float
    granularity: Granularity = Granularity.TENSOR
    pattern: Pattern | None = None

    def kept(self, scores: Tensor) -> Tensor:
        """Which weights stay, bool (R, C), for scores (R, C), float32 and none NaN."""
        if self.pattern is not None:
            groups = scores.reshape(-1, self.pattern.m)
            return kept(groups, self.pattern.m - self.pattern.n).view(scores.shape)
        if self.granularity is Granularity.ROW:
            return kept(scores, drop_count(self.sparsity, scores.shape[1]))
        return kept_of_tensor(scores, drop_count(self.sparsity, scores.numel()))


def drop_count(sparsity: float, size: int) -> int:
    """floor(sparsity * size), of the decimal that was written: 0.29 of 100 is 29, not 28."""
    return math.floor(Fraction(repr(float(sparsity))) * size)


def kept(scores: Tensor, drop: int) -> Tensor:
    """Mask (R, C) in which each row has lost its `drop` lowest scores, of equal ones the first."""
    if drop == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(drop, dim=1, keepdim=True).values
    stay = scores > threshold
    _drop_ties(stay, scores == threshold, keep=scores.shape[1] - drop)
    return stay


def _drop_ties(stay: Tensor, ties: Tensor, *, keep: int) -> None:
    """Let the last of the ties stay, as many as make `keep` in each row."""
    spare = keep - stay.sum(1)
    if not spare.any():
        return
    rows, columns = ties.nonzero(as_tuple=True)  # in order: by row, then by column
    counts = ties.sum(1)
    before = counts.cumsum(0) - counts
    place = torch.arange(len(rows), device=rows.device) - before[rows]
    last = place >= (counts - spare)[rows]
    stay[rows[last], columns[last]] = True


_HIGH: Final = 16  # bits of a float32 that the first pass looks at
_LOW: Final = 15  # the others, but for the sign, which scores do not have


@dataclass(frozen=True)
class Cut:
    """Where a whole network's scores are cut.

    Attributes:
        threshold: scores below it go.
        ties: of those equal to it, the first so many go, in the order of the tensors.
    """

    threshold: float
    ties: int


def component_cut(scores: Callable[[], Iterable[Tensor]], drop: int) -> Cut:
    """The cut below which `drop` of all scores lie, exact, with one tensor in memory at a time.

    Args:
        scores: gives the tensors, non-negative float32, the same at each call. The bits of such
            numbers are in their own order, so that two histograms, of the higher and of the lower
            bits, find the value.
        drop: how many go, at least 1.
    """
    high, before = _bin(_histogram(scores, lambda bits: bits >> _LOW, _HIGH), drop)
    low, within = _bin(
        _histogram(scores, lambda bits: (bits & (2**_LOW - 1))[(bits >> _LOW) == high], _LOW),
        drop - before,
    )
    bits = torch.tensor(high << _LOW | low, dtype=torch.int32)
    return Cut(float(bits.view(torch.float32)), drop - before - within)


def _histogram(
    scores: Callable[[], Iterable[Tensor]], part: Callable[[Tensor], Tensor], width: int
) -> Tensor:
    total = torch.zeros(2**width, dtype=torch.int64)
    for each in scores():
        bits = part(each.contiguous().view(-1).view(torch.int32))
        total += torch.bincount(bits, minlength=2**width).cpu()
    return total


def _bin(histogram: Tensor, drop: int) -> tuple[int, int]:
    """(the bin in which the `drop`-th lowest lies, how many lie below that bin)."""
    sums = histogram.cumsum(0)
    found = int(torch.searchsorted(sums, drop))
    return found, int(sums[found - 1]) if found else 0


def kept_above(scores: Tensor, cut: Cut) -> tuple[Tensor, Cut]:
    """Mask (R, C) of a tensor by a network's cut, and the cut for the tensors after it."""
    stay = scores >= cut.threshold
    if not cut.ties:
        return stay, cut
    places = (scores == cut.threshold).view(-1).nonzero().flatten()[: cut.ties]
    stay.view(-1)[places] = False
    return stay, Cut(cut.threshold, cut.ties - len(places))


def kept_of_tensor(scores: Tensor, drop: int) -> Tensor:
    """Mask (R, C) that has lost the `drop` lowest scores of all. Two histograms are several times
    faster than a selection of millions.
    """
    if drop == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    return kept_above(scores, component_cut(lambda: [scores], drop))[0]


def check_pattern(pattern: Pattern, name: str, channels: int) -> None:
    """Refuse a layer whose input channels the groups do not fill.

    Raises:
        InputError: names the layer.
    """
    if channels % pattern.m:
        raise InputError(
            f"pattern={pattern}: {name} has {channels} input channels, no multiple of {pattern.m};"
            f" leave it out with exclude={name}"
        )


def check_granularity(name: str, value: object) -> Granularity:
    """The granularity of that name.

    Raises:
        InputError: there is none.
    """
    expected.one_of(name, value, tuple(each.value for each in Granularity))
    return Granularity(str(value))
