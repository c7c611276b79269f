"""Where damage begins (the knee) and where pictures collapse (the cliff), by one rule.

A curve is quality against true sparsity, straight between its points, from the dense model at 0 on.
Quality has a range: from the dense model's down to the floor, which is 0 for a share of right
prompts, and for every other score the worst that any version of the sweep has. The knee is the
first sparsity at which KNEE of the range is lost, the cliff at which CLIFF is. The interval is that
of a bootstrap over prompts, the same prompts at all points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KNEE: Final = 0.05
CLIFF: Final = 0.5
DRAWS: Final = 1000
_SEED: Final = 0


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A sparsity at which so much is lost.

    Attributes:
        value: 0 to 1; None where the curve does not lose so much.
        low: lower end of the 95 % interval; None if most of a bootstrap does not lose so much.
        high: its upper end; None where it is beyond the last point.
    """

    value: float | None
    low: float | None
    high: float | None


def crossing(sparsities: Floats, qualities: Floats, level: float) -> float:
    """First sparsity at which the straight line between points falls below a level; infinity where
    it does not.

    Args:
        sparsities: (P,), increasing, the dense model's 0 first.
        qualities: (P,), higher is better; what is no number is lost.
        level: of quality.
    """
    qualities = np.where(np.isnan(qualities), -math.inf, qualities)
    below = np.flatnonzero(qualities < level)
    if len(below) == 0:
        return math.inf
    at = int(below[0])
    if at == 0:
        return float(sparsities[0])
    (x0, x1), (q0, q1) = sparsities[at - 1 : at + 1], qualities[at - 1 : at + 1]
    return float(x0 + (x1 - x0) * (q0 - level) / (q0 - q1))


def threshold(
    sparsities: Sequence[float], items: Floats, *, floor: float, loss: float
) -> Threshold:
    """The sparsity at which a share `loss` of the range is lost.

    Args:
        sparsities: (P,), of the pruned versions, increasing.
        items: (1 + P, N), quality of each prompt, higher is better; the dense model's first.
        floor: quality of a collapsed model.
        loss: share of the range.
    """
    places = np.array([0.0, *sparsities])

    def found(qualities: Floats) -> float:
        if not qualities[0] > floor:  # there is nothing to lose
            return math.inf
        return crossing(places, qualities, qualities[0] - loss * (qualities[0] - floor))

    rng, count = np.random.default_rng(_SEED), items.shape[1]
    draws = [found(items[:, rng.integers(count, size=count)].mean(axis=1)) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [0.025, 0.975], method="nearest")
    return Threshold(value=_finite(found(items.mean(axis=1))), low=_finite(low), high=_finite(high))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
