"""The search for the best split, beside trying everything."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from bksdm.evaluation.pruning.grid import Point
from bksdm.evaluation.pruning.search import LAST, best_split, lattice

SD2 = (289_406_976, 301_219_840)
SHAPES = (442_368, 2_207_744)
Good = Callable[[Point], bool]
FRONTIERS: dict[str, Good] = {
    "a box": lambda p: p.text_encoder <= 0.475 and p.unet <= 0.35,
    "a sum": lambda p: p.text_encoder + p.unet <= 0.8,
    "a circle": lambda p: p.text_encoder**2 + p.unet**2 <= 0.5,
    "a star": lambda p: (p.text_encoder + 0.05) * (p.unet + 0.05) <= 0.1,
    "the U-Net alone": lambda p: p.text_encoder == 0 and p.unet <= 0.6,
    "the text encoder alone": lambda p: p.unet == 0 and p.text_encoder <= 0.2,
}


def places(step: float) -> list[float]:
    """Sparsities of one component."""
    return [round(i * step, 6) for i in range(round(LAST / step) + 1)]


def most_zeros(good: Good, points: Iterable[Point], weights: tuple[int, int]) -> float:
    """By trying all of them."""
    return max((zeros(point, weights) for point in points if good(point)), default=0)


def zeros(point: Point, weights: tuple[int, int]) -> float:
    return point.text_encoder * weights[0] + point.unet * weights[1]


def all_points(step: float) -> list[Point]:
    return [Point(*pair) for pair in itertools.product(places(step), repeat=2)]


def counting(good: Good) -> tuple[Good, list[Point]]:
    asked: list[Point] = []

    def ask(point: Point) -> bool:
        asked.append(point)
        return good(point)

    return ask, asked


@pytest.mark.parametrize("weights", [SD2, SHAPES], ids=["sd2", "shapes"])
@pytest.mark.parametrize("good", FRONTIERS.values(), ids=FRONTIERS)
@pytest.mark.parametrize("step", [0.05, 0.025])
def test_the_best_is_the_best_of_all_with_few_evaluations(
    good: Good, weights: tuple[int, int], step: float
) -> None:
    ask, asked = counting(good)
    found = best_split(ask, weights=weights, step=step)
    assert good(found.best)
    wanted = most_zeros(good, all_points(step), weights)
    assert zeros(found.best, weights) == pytest.approx(wanted, abs=1)
    assert [point for point, _ in found.tried] == asked
    assert [fine for _, fine in found.tried] == [good(point) for point in asked]
    assert len(asked) == len(set(asked))
    # No faster than a walk along the frontier at worst, which is twice a side of the lattice.
    assert len(asked) <= 2 * len(places(step))
    assert len(asked) < found.lattice / 10
    assert found.lattice == len(places(step)) ** 2 - 1


@pytest.mark.parametrize("seed", range(20))
def test_the_best_is_the_best_of_all_on_random_frontiers(seed: int) -> None:
    """For each sparsity of the text encoder, the U-Net's may go as far as a falling stair."""
    rng = np.random.default_rng(seed)
    step = 0.05
    stair = np.sort(rng.uniform(-0.2, 1, size=len(places(step))) * rng.uniform(0.2, 1))[::-1]
    weights = (int(rng.integers(1, 1000)) * 1000, int(rng.integers(1, 1000)) * 1000)

    def good(point: Point) -> bool:
        return point.unet <= stair[round(point.text_encoder / step)]

    found = best_split(good, weights=weights, step=step)
    wanted = most_zeros(good, all_points(step)[1:], weights)
    assert zeros(found.best, weights) == pytest.approx(wanted, abs=1)
    assert len(found.tried) <= 2 * len(places(step))


@pytest.mark.parametrize(("weights", "name"), [((0, 500), "unet"), ((500, 0), "text_encoder")])
def test_one_component_alone_is_halved(weights: tuple[int, int], name: str) -> None:
    other = {"unet": "text_encoder", "text_encoder": "unet"}[name]
    ask, asked = counting(lambda point: getattr(point, name) <= 0.62)
    found = best_split(ask, weights=weights, step=0.025)
    assert (getattr(found.best, name), getattr(found.best, other)) == (0.6, 0.0)
    assert found.lattice == 38
    assert len(asked) <= 6  # 2 ** 6 > 38
    assert all(getattr(point, other) == 0 for point in asked)


def test_where_nothing_is_good_it_is_dense_after_the_least_of_each() -> None:
    found = best_split(lambda point: False, weights=SD2, step=0.05)
    assert found.best == Point()
    assert not any(fine for _, fine in found.tried)
    tried = {point for point, _ in found.tried}
    assert {Point(0.05, 0), Point(0, 0.05)} <= tried
    assert len(tried) <= 2 * len(places(0.05))


def test_where_everything_is_good_it_is_the_last_of_all() -> None:
    found = best_split(lambda point: True, weights=SD2, step=0.05)
    assert found.best == Point(0.95, 0.95)
    assert len(found.tried) < 40


def test_the_lattice_has_no_dense_model_and_stops_at_the_last() -> None:
    for step in (0.025, 0.1, 0.2, 0.3, 0.5):
        points = lattice((1, 1), step=step)
        assert points.any(axis=1).all()
        assert points.max() <= LAST
        side = np.arange(0, LAST + 1e-9, step).round(6)
        assert {tuple(row) for row in points} | {(0, 0)} == set(itertools.product(side, repeat=2))
