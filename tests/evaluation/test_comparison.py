import resource
import time
from collections.abc import Sequence

import numpy as np
import pytest

from bksdm.errors import InputError
from bksdm.evaluation.comparison import (
    Comparison,
    Verdict,
    compare,
    differ_most,
    mean_interval,
    not_numbers,
)
from bksdm.evaluation.score import Better, Items, Score


def score(
    values: Sequence[float] | np.ndarray,
    better: Better = Better.HIGHER,
    *,
    ids: Sequence[str] | None = None,
) -> Score:
    numbers = tuple(map(float, values))
    names = tuple(ids or (f"{i:06d}" for i in range(len(numbers))))
    value = sum(numbers) / len(numbers)
    return Score(name="x", value=value, better=better, n=len(numbers), items=Items(names, numbers))


def compared(
    ours: Sequence[float] | np.ndarray,
    theirs: Sequence[float] | np.ndarray,
    better: Better = Better.HIGHER,
) -> Comparison:
    found = compare(score(ours, better), score(theirs, better))
    assert found is not None
    return found


def pairs(n: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    prompt = rng.gamma(2.0, size=n)
    return prompt + shift + rng.normal(size=n), prompt + 0.3 * rng.normal(size=n) + 1


def test_intervals_are_those_of_a_plain_bootstrap_over_items() -> None:
    ours, theirs = pairs(60, 0.4, seed=5)
    found = compared(ours, theirs)
    rng, differences, ratios = np.random.default_rng(99), [], []
    for _ in range(20_000):
        rows = rng.integers(60, size=60)
        differences.append((ours[rows] - theirs[rows]).mean())
        ratios.append(ours[rows].mean() / theirs[rows].mean())
    assert found.ratio is not None
    for interval, value, draws in [
        (found.difference, (ours - theirs).mean(), differences),
        (found.ratio, ours.mean() / theirs.mean(), ratios),
    ]:
        low, high = np.quantile(draws, (0.025, 0.975))
        assert interval.value == pytest.approx(value, abs=1e-12)
        assert (interval.low, interval.high) == pytest.approx(
            (low, high), abs=0.06 * float(high - low)
        )


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        difference = compared(*pairs(50, 0.5, seed)).difference
        covered += difference.low <= -0.5 <= difference.high
    assert 0.90 <= covered / 200 <= 0.99


def test_models_that_do_not_differ_are_seldom_told_apart() -> None:
    told = sum(
        compared(*pairs(50, 1.0, 1000 + seed)).verdict is not Verdict.OPEN for seed in range(200)
    )
    assert told / 200 <= 0.10


@pytest.mark.parametrize("better", Better)
def test_a_model_is_not_distinguishable_from_itself(better: Better) -> None:
    ours, _ = pairs(20, 0, seed=1)
    found = compared(ours, ours, better)
    assert found.verdict is Verdict.OPEN
    assert found.sentence == "not distinguishable with n = 20"
    assert (found.difference.low, found.difference.value, found.difference.high) == (0, 0, 0)
    assert (found.wins, found.losses) == (0, 0)


@pytest.mark.parametrize(
    ("better", "shift", "verdict"),
    [
        (Better.HIGHER, 1, Verdict.BETTER),
        (Better.HIGHER, -1, Verdict.WORSE),
        (Better.LOWER, 1, Verdict.WORSE),
        (Better.LOWER, -1, Verdict.BETTER),
        (Better.NEITHER, 1, Verdict.DIFFERENT),
        (Better.NEITHER, -1, Verdict.DIFFERENT),
    ],
)
def test_the_verdict_knows_which_way_is_good(
    better: Better, shift: float, verdict: Verdict
) -> None:
    _, theirs = pairs(40, 0, seed=2)
    jitter = 0.1 * np.random.default_rng(3).normal(size=40)
    found = compared(theirs + shift + jitter, theirs, better)
    assert found.verdict is verdict
    assert found.difference.value == pytest.approx(shift, abs=0.1)
    good = {Verdict.BETTER: (1, 0), Verdict.WORSE: (0, 1), Verdict.DIFFERENT: (0, 0)}
    assert (found.wins, found.losses) == good[verdict]


@pytest.mark.parametrize(
    ("won", "lost", "verdict"),
    [(20, 4, Verdict.BETTER), (4, 20, Verdict.WORSE), (12, 10, Verdict.OPEN)],
)
def test_right_and_wrong_answers_are_judged_by_those_that_differ(
    won: int, lost: int, verdict: Verdict
) -> None:
    """McNemar's exact test: p = 0.0015 for 20 : 4, p = 0.83 for 12 : 10, however many tie."""
    ours = [1.0] * won + [0.0] * lost + [1.0] * 60 + [0.0] * 16
    theirs = [0.0] * won + [1.0] * lost + [1.0] * 60 + [0.0] * 16
    found = compared(ours, theirs)
    assert found.verdict is verdict
    assert (found.wins, found.losses) == (won / len(ours), lost / len(ours))
    assert found.difference.value == pytest.approx((won - lost) / len(ours))


@pytest.mark.parametrize(
    ("n", "verdict"), [(1, Verdict.OPEN), (19, Verdict.OPEN), (20, Verdict.BETTER)]
)
def test_a_handful_of_items_decides_nothing(n: int, verdict: Verdict) -> None:
    assert compared([2.0] * n, [1.0] * n).verdict is verdict


def test_items_are_paired_by_id_not_by_place() -> None:
    ours = score([1, 2, 3], ids=["a", "b", "c"])
    theirs = score([30, 20, 10, 99], ids=["c", "b", "a", "d"])
    found = compare(ours, theirs)
    assert found is not None
    assert found.n == 3
    assert found.difference.value == pytest.approx((1 - 10 + 2 - 20 + 3 - 30) / 3)


def test_scores_of_whole_sets_are_not_compared() -> None:
    whole = Score(name="x", value=12.0, better=Better.LOWER, n=9)
    assert compare(whole, score([1, 2])) is None
    assert compare(score([1, 2]), whole) is None
    assert differ_most(whole, score([1, 2]), 3) == []


def test_no_common_item_is_refused() -> None:
    with pytest.raises(InputError, match="no item in common"):
        compare(score([1, 2], ids=["a", "b"]), score([1, 2], ids=["c", "d"]))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_not_compared(broken: float) -> None:
    values = [1.0] * 9
    assert compare(score([*values, broken]), score([*values, 2.0])) is None
    assert compare(score([*values, 2.0]), score([*values, broken])) is None
    ours = score([broken, broken, 1.0, 1.0], ids=["a", "b", "c", "d"])
    theirs = score([1.0, broken, broken, broken], ids=["b", "c", "d", "e"])
    assert not_numbers(ours, theirs) == 3
    assert not_numbers(score(values), score(values)) == 0


@pytest.mark.parametrize(
    "theirs",
    [[0.0] * 30, [-1.0, 1.0] * 15, [1.0] * 19 + [0.0] * 11],
    ids=["zero", "either sign", "seldom above zero"],
)
def test_there_is_no_ratio_to_nearly_nothing(theirs: list[float]) -> None:
    assert compared([1.0] * 30, theirs).ratio is None


def test_a_ratio_needs_a_baseline_above_zero_only() -> None:
    assert compared([-1.0, 2.0] * 15, [1.0] * 20 + [0.0] * 10).ratio is not None


def test_what_differs_most_comes_first_and_ties_in_the_order_of_ids() -> None:
    ids = ["a", "b", "c", "d", "e", "f"]
    theirs = score([0.0] * 6, ids=ids)
    ours = score([-1, 3, -2, 0, 3, -2], ids=ids)
    assert differ_most(ours, theirs, 4) == [("c", -2), ("f", -2), ("b", 3), ("e", 3)]
    assert differ_most(ours, theirs, 3) == [("c", -2), ("f", -2), ("b", 3)]
    assert differ_most(ours, theirs, 99) == [
        *differ_most(ours, theirs, 4)[:2],
        ("a", -1),
        ("b", 3),
        ("e", 3),
    ]
    assert differ_most(ours, theirs, 0) == []


def test_of_a_loss_the_highest_are_the_worst() -> None:
    ids = ["a", "b", "c"]
    ours = score([2, -1, 1], Better.LOWER, ids=ids)
    assert differ_most(ours, score([0.0] * 3, Better.LOWER, ids=ids), 2) == [("a", 2), ("b", -1)]


def test_intervals_repeat() -> None:
    ours, theirs = pairs(30, 0, seed=4)
    assert compared(ours, theirs) == compared(ours, theirs)
    assert mean_interval(tuple(ours)) == mean_interval(tuple(ours))


def test_coco_sized_comparisons_stay_small() -> None:
    ours, theirs = pairs(30_000, 0.9, seed=7)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = compared(ours, theirs)
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    error = (ours - theirs).std() / 30_000**0.5
    assert found.difference.high - found.difference.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert seconds < 20
    assert grown < 300, f"{grown:.0f} MiB"  # 2,000 resamples at once would be 480 MB and more
