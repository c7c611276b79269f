"""Knees and cliffs by hand, and of the published numbers."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from bksdm.evaluation.pruning.damage import CLIFF, KNEE, Threshold, crossing, threshold

# Table A.4 of shared/facts/pruning-and-metrics.md: CLIPScore of arXiv 2411.15113, dense first.
DENSE, FLOOR = 0.3140, 0.17
TEXT = [0.3, 0.4, 0.5, 0.55, 0.575, 0.6, 0.625, 0.65, 0.675, 0.7, 0.8]
TEXT_CLIP = {
    "magnitude": [3166, 3144, 3103, 3042, 2929, 2677, 2223, 1858, 1746, 1716, 1770],
    "owl_magnitude": [3166, 3144, 3101, 3043, 2978, 2822, 2485, 2043, 1821, 1795, 1796],
    "wanda": [3158, 3149, 3088, 2922, 2653, 2156, 1843, 1763, 1790, 1783, 1838],
    "owl_wanda": [3158, 3141, 3088, 2973, 2776, 2343, 1930, 1822, 1810, 1807, 1818],
}
UNET = [0.1, 0.2, 0.3, 0.35, 0.375, 0.4, 0.425, 0.45, 0.475, 0.5, 0.525, 0.55, 0.575, 0.6]
UNET_CLIP = [3164, 3173, 3166, 3144, 3133, 3113, 3081, 3024, 2941, 2832, 2663, 2477, 2206, 2104]


def mean_only(dense: float, values: Sequence[float]) -> NDArray[np.float64]:
    """Items of curves of which only the means are known: all prompts alike."""
    return np.repeat(np.array([[dense], *([value] for value in values)]), 5, axis=1)


def published(sparsities: Sequence[float], clip: Sequence[int], loss: float) -> float:
    items = mean_only(DENSE, [value / 1e4 for value in clip])
    found = threshold(sparsities, items, floor=FLOOR, loss=loss)
    assert found.value is not None
    assert found.low == found.high == found.value  # prompts are alike: nothing to draw
    return found.value


def noisy(means: Sequence[float], *, count: int, spread: float) -> NDArray[np.float64]:
    """Prompts differ from each other, and from version to version."""
    rng = np.random.default_rng(5)
    of_prompts = rng.normal(scale=spread, size=count)
    return np.array([mean + of_prompts + rng.normal(scale=spread, size=count) for mean in means])


def test_between_two_points_the_curve_is_a_straight_line() -> None:
    # 1.0 at 0, 0.8 at 0.4, 0.2 at 0.6: 0.5 is half way between the last two.
    assert crossing(np.array([0, 0.4, 0.6]), np.array([1, 0.8, 0.2]), 0.5) == pytest.approx(0.5)


def test_a_curve_that_only_touches_the_level_at_a_point_crosses_it_there() -> None:
    places = np.array([0, 0.25, 0.5])
    assert crossing(places, np.array([1, 0.5, 0.25]), 0.5) == 0.25
    assert crossing(places, np.array([1, 0.5, 0.75]), 0.5) == math.inf


def test_only_the_first_crossing_counts() -> None:
    places, qualities = np.array([0, 0.2, 0.4, 0.6]), np.array([1.0, 0.0, 1.0, 0.0])
    assert crossing(places, qualities, 0.5) == pytest.approx(0.1)


def test_a_gain_before_the_loss_does_not_move_the_level() -> None:
    # From 1.1 at 0.2 to 0.5 at 0.4: 0.95, 5 % below the dense model, a quarter of the way.
    found = threshold([0.2, 0.4], mean_only(1.0, [1.1, 0.5]), floor=0.0, loss=0.05)
    assert found.value == pytest.approx(0.25)


def test_a_curve_that_stays_above_has_no_crossing() -> None:
    found = threshold([0.2, 0.4], mean_only(1.0, [0.99, 0.98]), floor=0.0, loss=KNEE)
    assert found == Threshold(value=None, low=None, high=None)


def test_where_the_first_point_is_below_it_is_between_the_dense_model_and_that_point() -> None:
    found = threshold([0.3, 0.6], mean_only(1.0, [0.0, 0.0]), floor=0.0, loss=CLIFF)
    assert found.value == pytest.approx(0.15)
    assert crossing(np.array([0, 0.3]), np.array([0.1, 0.2]), 0.5) == 0


def test_the_range_ends_at_the_floor() -> None:
    # Half of the range from 1.0 to 0.6 is lost at 0.8, from 1.0 to 0.2 at 0.6.
    for floor, place in ((0.6, 0.2), (0.2, 0.4)):
        found = threshold([0.5], mean_only(1.0, [0.5]), floor=floor, loss=CLIFF)
        assert found.value == pytest.approx(place)


def test_a_dense_model_at_the_floor_has_nothing_to_lose() -> None:
    for dense in (0.0, 0.5):
        found = threshold([0.3], mean_only(dense, [0.6]), floor=0.5, loss=CLIFF)
        assert found == Threshold(value=None, low=None, high=None)


def test_a_quality_that_is_no_number_is_lost_right_after_the_point_before() -> None:
    for broken in (math.nan, -math.inf):
        found = threshold([0.3, 0.6], mean_only(1.0, [0.9, broken]), floor=0.0, loss=CLIFF)
        assert found.value == 0.3


def test_scores_of_which_lower_is_better_are_turned_over_by_their_sign() -> None:
    # A loss of 0.1 rises to 0.5: the worst. Half the range is 0.3, half way to the first point.
    found = threshold([0.4], -mean_only(0.1, [0.5]), floor=-0.5, loss=CLIFF)
    assert found.value == pytest.approx(0.2)


@pytest.mark.parametrize("loss", [KNEE, CLIFF])
def test_the_interval_contains_the_value_and_is_narrower_with_more_prompts(loss: float) -> None:
    places, means = [0.2, 0.4, 0.6, 0.8], [1.0, 0.97, 0.8, 0.3, 0.0]
    widths = []
    for count in (30, 3000):
        items = noisy(means, count=count, spread=0.1)
        found = threshold(places, items, floor=0.0, loss=loss)
        assert found.low is not None
        assert found.value is not None
        assert found.high is not None
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 5


def test_the_interval_of_a_straight_line_is_that_of_the_normal_distribution() -> None:
    """One point, far down: the crossing is where 1 - x (1 - q) = 1/2, x = 1/2 / (1 - q)."""
    rng = np.random.default_rng(1)
    own = rng.normal(0.2, 0.1, size=400)
    items = np.array([np.ones(400), own])
    found = threshold([1.0], items, floor=0.0, loss=CLIFF)
    ends = own.mean() + np.array([-1.96, 1.96]) * own.std() / 20
    assert [found.low, found.high] == pytest.approx(0.5 / (1 - ends), abs=2e-3)


def test_the_same_items_give_the_same_interval() -> None:
    items = noisy([1.0, 0.7, 0.2], count=40, spread=0.2)
    several = {threshold([0.3, 0.6], items, floor=0.0, loss=CLIFF) for _ in range(3)}
    assert len(several) == 1


def test_an_interval_that_reaches_beyond_the_last_point_is_open_there() -> None:
    items = noisy([1.0, 0.9, 0.48], count=40, spread=0.3)
    found = threshold([0.3, 0.6], items, floor=0.0, loss=CLIFF)
    assert found.low is not None
    assert found.value is not None
    assert found.high is None


def test_the_published_cliffs_are_where_the_paper_sees_pictures_break() -> None:
    assert 0.6 < published(TEXT, TEXT_CLIP["magnitude"], CLIFF) < 0.625
    assert 0.55 < published(UNET, UNET_CLIP, CLIFF) < 0.575


def test_the_published_knees_come_before_what_the_eye_sees() -> None:
    # 5 % of the range from 0.3140 to 0.17 is lost at 0.3068. By hand, text encoder:
    # 0.3103 at 50 %, 0.3042 at 55 %: 35 of 61 steps between them. U-Net: 0.3081 and 0.3024.
    assert published(TEXT, TEXT_CLIP["magnitude"], KNEE) == pytest.approx(0.5 + 0.05 * 35 / 61)
    assert published(UNET, UNET_CLIP, KNEE) == pytest.approx(0.425 + 0.025 * 13 / 57)


def test_the_published_wanda_breaks_before_magnitude_and_owl_helps_both() -> None:
    cliffs = {name: published(TEXT, clip, CLIFF) for name, clip in TEXT_CLIP.items()}
    order = ["wanda", "owl_wanda", "magnitude", "owl_magnitude"]
    assert sorted(cliffs, key=lambda name: cliffs[name]) == order
    assert cliffs["magnitude"] - cliffs["wanda"] == pytest.approx(0.025, abs=0.005)
