import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from bksdm.evaluation.measures.feature_set import FeatureSet
from bksdm.evaluation.measures.frechet import Frechet, frechet_distance


def of(rows: Tensor) -> FeatureSet:
    return FeatureSet(len(rows), rows.mean(0), rows.T.cov())


def random(n: int, dim: int, *, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=rng, dtype=torch.float64)
    shift = torch.randn(dim, generator=rng, dtype=torch.float64)
    return torch.randn(n, dim, generator=rng, dtype=torch.float64) @ mixing + shift


def with_sqrtm(first: FeatureSet, second: FeatureSet) -> float:
    """The formula as it is written, with scipy's matrix square root."""
    root = scipy.linalg.sqrtm((first.covariance @ second.covariance).numpy())
    shift = (first.mean - second.mean).square().sum().item()
    spread = (first.covariance + second.covariance).trace().item()
    return float(shift + spread - 2 * np.trace(root).real)


def test_it_is_the_closed_form_where_covariances_commute() -> None:
    first = FeatureSet(9, torch.tensor([1.0, 2.0, 3.0]).double(), torch.eye(3).double() * 4)
    second = FeatureSet(
        9,
        torch.tensor([1.0, 0.0, 0.0]).double(),
        torch.diag(torch.tensor([9.0, 1.0, 0.0])).double(),
    )
    # means: 0 + 4 + 9; standard deviations: (2 - 3)^2 + (2 - 1)^2 + (2 - 0)^2
    assert frechet_distance(first, second) == pytest.approx(13 + 6, rel=1e-12)


@pytest.mark.parametrize("dim", [3, 64])
def test_it_is_the_formula_with_scipys_square_root(dim: int) -> None:
    first, second = of(random(500, dim, seed=1)), of(random(400, dim, seed=2))
    expected = with_sqrtm(first, second)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [400, 30])
def test_a_set_is_at_no_distance_from_itself(n: int) -> None:
    same = of(random(n, 64, seed=3))
    assert abs(frechet_distance(same, same)) < 1e-10 * same.covariance.trace()


def test_singular_covariances_are_exact_where_eigenvalues_of_the_product_are_not() -> None:
    rows = random(20, 128, seed=4)
    first, second = of(rows), of(1.5 * rows)  # sqrt(C C') = 1.5 C
    expected = ((0.5 * first.mean).square().sum() + 0.25 * first.covariance.trace()).item()
    ours = abs(frechet_distance(first, second) / expected - 1)
    theirs = abs(
        _compute_fid(first.mean, first.covariance, second.mean, second.covariance).item() / expected
        - 1
    )
    assert ours < 1e-12 < 1e-9 < theirs


def test_singular_covariances_are_exact_for_any_two_sets() -> None:
    """The overlap of two sets with fewer pictures than features, from the pictures themselves."""
    first, second = random(20, 128, seed=7), random(30, 128, seed=8)
    centred = [(rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (first, second)]
    overlap = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    spread = sum(rows.square().sum() for rows in centred)
    shift = (first.mean(0) - second.mean(0)).square().sum()
    expected = (shift + spread - 2 * overlap).item()
    assert frechet_distance(of(first), of(second)) == pytest.approx(expected, rel=1e-12)


def test_one_picture_has_no_distance() -> None:
    lonely = FeatureSet(1, torch.zeros(2).double(), torch.full((2, 2), torch.nan).double())
    assert np.isnan(frechet_distance(lonely, lonely))


def test_fewer_pictures_than_features_are_told() -> None:
    few, many = of(random(20, 32, seed=5)), of(random(99, 32, seed=6))
    metric = Frechet(reference="baseline", name="FD")
    assert "20 pictures for 32 features" in metric.scores(few, many)[0].details["note"]
    assert "note" not in metric.scores(many, many)[0].details
