"""The best split of a sparsity between two components, with few evaluations.

On a lattice of sparsities. Assumes that more zeros in either component never make a model better:
whatever is at least as sparse in both as one that is too bad, is too bad. Then each evaluation
takes away either all points above it, or all that have no more zeros than it.

P candidate points.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bksdm.evaluation.pruning.grid import Point

Floats = NDArray[np.float64]

LAST: Final = 0.95  # sparsity of the lattice


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search ended with.

    Attributes:
        best: the point with the most zeros that is good enough; 0/0 where none is.
        tried: all points that were evaluated, in order, and whether each was good enough.
        lattice: how many points a grid would have had.
    """

    best: Point
    tried: tuple[tuple[Point, bool], ...] = field(default=())
    lattice: int = 0


def best_split(good: Callable[[Point], bool], *, weights: tuple[int, int], step: float) -> Found:
    """The point of the lattice with the most zeros for which `good` holds.

    Args:
        good: evaluates a point.
        weights: prunable weights of (text encoder, U-Net); one that is 0 stays dense.
        step: of the lattice.
    """
    left = lattice(weights, step=step)
    total, tried, best = len(left), [], Point()
    while len(left):
        point = Point(*map(float, left[next_candidate(left, weights)]))
        fine = good(point)
        tried.append((point, fine))
        zeros, own = (
            left @ np.array(weights),
            point.text_encoder * weights[0] + point.unet * weights[1],
        )
        if fine:
            best, left = point, left[zeros > own + 0.5]
        else:
            left = left[~_above(left, np.array([[point.text_encoder, point.unet]]))[0]]
    return Found(best=best, tried=tuple(tried), lattice=total)


def lattice(weights: tuple[int, int], *, step: float) -> Floats:
    """Candidates (P, 2): sparsities of (text encoder, U-Net), without 0/0."""
    places = [
        np.round(np.arange(0, LAST + 1e-9, step), 6) if weight else np.zeros(1)
        for weight in weights
    ]
    every = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2)
    return every[every.any(axis=1)]


def next_candidate(left: Floats, weights: tuple[int, int]) -> int:
    """The candidate that leaves the fewest in the worse of its two outcomes."""
    zeros = left @ np.array(weights, dtype=np.float64)
    if_good = (zeros[None, :] <= zeros[:, None] + 0.5).sum(axis=1)
    if_bad = _above(left, left).sum(axis=1)
    return int(np.argmax(np.minimum(if_good, if_bad)))


def _above(left: Floats, points: Floats) -> NDArray[np.bool_]:
    """(Q, P): whether candidate p is at least as sparse in both as point q."""
    return np.asarray((left[None, :, :] >= points[:, None, :] - 1e-9).all(axis=2))
