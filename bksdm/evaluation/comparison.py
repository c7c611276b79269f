"""Two models on the same items: the paired difference, its interval, and a verdict in words."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from bksdm.errors import InputError
from bksdm.evaluation.score import Better, Score

DRAWS: Final = 2000
_POSITIVE: Final = 20
# A percentile bootstrap of fewer items has an interval that is too narrow.
_LEAST: Final = 20
_SEED: Final = 0  # of the bootstrap: the same numbers give the same interval


class Verdict(StrEnum):
    """What a comparison says."""

    BETTER = "better"
    WORSE = "worse"
    OPEN = "not distinguishable"
    DIFFERENT = "different"  # in a score of which neither way is good


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model's score against the baseline's, over the items that both have.

    Attributes:
        score: the score's name.
        n: items in common.
        difference: mean of model minus baseline, with a percentile bootstrap over items.
        ratio: mean of the model over mean of the baseline, the same way; None where a value of the
            baseline is negative, or so few are above zero that a resample may have none.
        wins: share of items on which the model is better, 0 to 1.
        losses: share on which it is worse; the rest are ties.
        verdict: better or worse only if the interval of the difference excludes zero, and there
            are at least twenty items.
    """

    score: str
    n: int
    difference: Interval
    ratio: Interval | None
    wins: float
    losses: float
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The verdict with the number of items."""
        of = f" with n = {self.n}" if self.verdict is Verdict.OPEN else f" (n = {self.n})"
        return f"{self.verdict}{of}"


def not_numbers(model: Score, baseline: Score) -> int:
    """Of how many of the items that both have the value of either is not a number."""
    if model.items is None or baseline.items is None:
        return 0
    of_baseline = dict(zip(baseline.items.ids, baseline.items.values, strict=True))
    return sum(
        not (math.isfinite(value) and math.isfinite(of_baseline[item]))
        for item, value in zip(model.items.ids, model.items.values, strict=True)
        if item in of_baseline
    )


def compare(model: Score, baseline: Score) -> Comparison | None:
    """The paired comparison of two scores of one name; None where they have no items, or one of
    their values is not a number.

    Raises:
        InputError: their items have nothing in common.
    """
    if model.items is None or baseline.items is None:
        return None
    of_baseline = dict(zip(baseline.items.ids, baseline.items.values, strict=True))
    of_model = dict(zip(model.items.ids, model.items.values, strict=True))
    common = [item for item in of_model if item in of_baseline]
    if not common:
        raise InputError(
            f"{model.name}: the two models have no item in common; evaluate both with the same"
            " protocol"
        )
    ours = np.array([of_model[item] for item in common])
    theirs = np.array([of_baseline[item] for item in common])
    if not_numbers(model, baseline):
        return None
    sign = {Better.HIGHER: 1, Better.LOWER: -1, Better.NEITHER: 0}[model.better]
    gain = np.sign(ours - theirs) * sign
    difference = _interval([ours - theirs], _mean)
    return Comparison(
        score=model.name,
        n=len(common),
        difference=difference,
        ratio=_interval([ours, theirs], _ratio) if _divides(theirs) else None,
        wins=float((gain > 0).mean()),
        losses=float((gain < 0).mean()),
        verdict=_verdict(difference, sign, len(common)),
    )


def differ_most(model: Score, baseline: Score, count: int) -> list[tuple[str, float]]:
    """The items that differ most, (id, model minus baseline): the worst losses, then the best wins,
    at most `count` in all; ties in the order of ids.
    """
    if model.items is None or baseline.items is None:
        return []
    of_baseline = dict(zip(baseline.items.ids, baseline.items.values, strict=True))
    worth = -1 if model.better is Better.LOWER else 1
    rows = [
        (item, value - of_baseline[item])
        for item, value in zip(model.items.ids, model.items.values, strict=True)
        if item in of_baseline
    ]
    ordered = sorted(rows, key=lambda row: (-abs(row[1]), row[0]))
    worst = [row for row in ordered if worth * row[1] < 0][: count - count // 2]
    best = [row for row in ordered if worth * row[1] > 0][: count - len(worst)]
    return worst + best


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean with a percentile bootstrap over the values."""
    return _interval([np.asarray(values, dtype=float)], _mean)


def _mean(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(np.mean(values, axis=axis))


def _ratio(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    return np.asarray(np.mean(ours, axis=axis) / np.mean(theirs, axis=axis))


def _divides(theirs: NDArray[np.float64]) -> bool:
    # A resample misses all k positive values with a chance of about exp(-k).
    return bool((theirs >= 0).all() and np.count_nonzero(theirs) >= min(_POSITIVE, len(theirs)))


def _interval(
    samples: Sequence[NDArray[np.float64]], statistic: Callable[..., NDArray[np.float64]]
) -> Interval:
    value = float(statistic(*samples))
    if len(samples[0]) < 2 or all(np.ptp(sample) == 0 for sample in samples):
        return Interval(value, value, value)
    found = bootstrap(
        samples,
        statistic,
        n_resamples=DRAWS,
        batch=max(1, 2_000_000 // len(samples[0])),  # memory does not grow with the items
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def _verdict(difference: Interval, sign: int, n: int) -> Verdict:
    if n < _LEAST or difference.low <= 0 <= difference.high:
        return Verdict.OPEN
    if not sign:
        return Verdict.DIFFERENT
    return Verdict.BETTER if difference.value * sign > 0 else Verdict.WORSE
