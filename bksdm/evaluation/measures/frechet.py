"""Frechet distance between two sets of pictures: FID on Inception's features, FD on others'.

Heusel et al., arXiv 1706.08500, equation 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bksdm.evaluation.measures.feature_set import FeatureSet
from bksdm.evaluation.measures.features import FEATURES
from bksdm.evaluation.reference import UNKNOWN, ReferenceSetting
from bksdm.evaluation.score import Better, Score


@dataclass(frozen=True, kw_only=True)
class Frechet:
    """Distance of the model's pictures to a reference set.

    Attributes:
        reference: a file, "baseline", or reference pictures.
        name: of the score.
        layer: of the network.
    """

    reference: ReferenceSetting
    name: str = "FID"
    layer: str = FEATURES

    needs_rows: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (self.name,)

    def scores(self, model: FeatureSet, reference: FeatureSet | None) -> Sequence[Score]:
        """One score; no interval is known for a single sample."""
        assert reference is not None
        dim = len(model.mean)
        n = min(each.n for each in (model, reference) if each.n != UNKNOWN)
        details: dict[str, Any] = {"dim": dim}
        if n <= dim:
            details["note"] = f"{n} pictures for {dim} features: singular, biased upward"
        value = frechet_distance(model, reference)
        return [Score(name=self.name, value=value, better=Better.LOWER, n=model.n, details=details)]


def frechet_distance(first: FeatureSet, second: FeatureSet) -> float:
    """Squared Wasserstein-2 distance of the two normal distributions of these moments:
    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)). NaN where a covariance is unknown.
    """
    if not (first.covariance.isfinite().all() and second.covariance.isfinite().all()):
        return float("nan")
    shift = (first.mean - second.mean).square().sum()
    spread = first.covariance.trace() + second.covariance.trace()
    # With C = A A' and C' = B B', the trace of the root of C C' is the sum of the singular values
    # of A'B. Roots of eigenvalues of C C' would turn rounding of 1e-16 where C is singular (fewer
    # pictures than features) into 1e-8, for each of the missing directions.
    overlap = torch.linalg.svdvals(_factor(first.covariance).T @ _factor(second.covariance)).sum()
    return float(shift + spread - 2 * overlap)


def _factor(covariance: Tensor) -> Tensor:
    """A (D, rank) with A A' = covariance."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    real = values > floor
    factor: Tensor = vectors[:, real] * values[real].sqrt()
    return factor
