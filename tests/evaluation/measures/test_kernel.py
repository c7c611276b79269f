import numpy as np
import pytest
import torch

from bksdm.errors import InputError
from bksdm.evaluation.measures.feature_set import FeatureSet
from bksdm.evaluation.measures.kernel import Kernel


def of(n: int, *, seed: int, shift: float = 0.0) -> FeatureSet:
    rng = torch.Generator().manual_seed(seed)
    rows = (torch.randn(n, 5, generator=rng) + shift).float()
    return FeatureSet(n, rows.mean(0).double(), rows.T.cov().double(), rows)


def by_pairs(first: np.ndarray, second: np.ndarray) -> float:
    """The unbiased estimate, pair by pair."""

    def mean(left: np.ndarray, right: np.ndarray, *, same: bool) -> float:
        values = [
            (float(x @ y) / len(x) + 1) ** 3
            for i, x in enumerate(left)
            for j, y in enumerate(right)
            if not (same and i == j)
        ]
        return sum(values) / len(values)

    return (
        mean(first, first, same=True)
        + mean(second, second, same=True)
        - 2 * mean(first, second, same=False)
    )


def test_it_is_the_mean_over_subsets_of_a_loop_over_pairs() -> None:
    model, reference = of(30, seed=0, shift=0.5), of(25, seed=1)
    (score,) = Kernel(reference="baseline", subsets=4, subset_size=10).scores(model, reference)
    rng = np.random.RandomState(2020)
    values = []
    for _ in range(4):
        ours = model.rows.numpy()[rng.choice(30, 10, replace=False)].astype(np.float64)
        theirs = reference.rows.numpy()[rng.choice(25, 10, replace=False)].astype(np.float64)
        values.append(by_pairs(ours, theirs))
    assert score.value == pytest.approx(np.mean(values), rel=1e-12)
    assert score.deviation == pytest.approx(np.std(values), rel=1e-9)
    assert score.interval == "s.d. of 4 subsets of 10"


def test_with_fewer_pictures_than_a_subset_it_takes_all_and_says_so() -> None:
    model, reference = of(12, seed=0, shift=0.5), of(25, seed=1)
    (score,) = Kernel(reference="baseline", subsets=3).scores(model, reference)
    assert score.interval == "s.d. of 3 subsets of 12"
    assert np.isfinite(score.value)


def test_of_two_whole_sets_there_is_one_subset_and_no_spread() -> None:
    model, reference = of(12, seed=0, shift=0.5), of(12, seed=1)
    (score,) = Kernel(reference="baseline").scores(model, reference)
    assert model.rows is not None
    assert reference.rows is not None
    expected = by_pairs(model.rows.double().numpy(), reference.rows.double().numpy())
    assert score.value == pytest.approx(expected, rel=1e-9)
    assert (score.deviation, score.interval, score.details["subsets"]) == (None, "", 1)
    (score,) = Kernel(reference="baseline", subset_size=11, subsets=3).scores(model, reference)
    assert score.deviation is not None


def test_it_is_unbiased() -> None:
    """The same distribution gives zero on average, even of few pictures."""
    metric = Kernel(reference="baseline", subsets=1, subset_size=20)
    values = [
        metric.scores(of(20, seed=2 * i), of(20, seed=2 * i + 1))[0].value for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0 < max(values)
    shifted = [
        metric.scores(of(20, seed=2 * i), of(20, seed=2 * i + 1, shift=0.3))[0].value
        for i in range(200)
    ]
    assert np.mean(shifted) > 3 * np.std(values) / np.sqrt(len(values))


def test_a_subset_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="subset_size=1"):
        Kernel(reference="baseline", subset_size=1)
