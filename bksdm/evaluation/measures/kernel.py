"""Kernel distance between two sets of pictures: KID on Inception's features.

Binkowski et al., arXiv 1801.01401: squared maximum mean discrepancy with the kernel
(x.y / D + 1)^3, unbiased, so that it may be below zero, and small sets do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torchmetrics.image.kid import poly_mmd

from bksdm import expected
from bksdm.evaluation.measures.feature_set import FeatureSet
from bksdm.evaluation.measures.features import FEATURES
from bksdm.evaluation.reference import ReferenceSetting
from bksdm.evaluation.score import Better, Score


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Mean over random subsets of the model's and the reference's pictures.

    Subsets are those that torch-fidelity draws from the same features.

    Attributes:
        reference: a file with all features, "baseline", or reference pictures.
        name: of the score.
        layer: of the network.
        subsets: how many.
        subset_size: pictures of each; all of the smaller set if that has fewer, and the score says
            so.
        seed: of the subsets.
    """

    reference: ReferenceSetting
    name: str = "KID"
    layer: str = FEATURES
    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020

    needs_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expected.count("subsets", self.subsets, least=1)
        expected.count("subset_size", self.subset_size, least=2)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (self.name,)

    def scores(self, model: FeatureSet, reference: FeatureSet | None) -> Sequence[Score]:
        """One score, with the standard deviation over the subsets; NaN for a single picture."""
        assert reference is not None
        size = min(self.subset_size, model.n, reference.n)
        # Subsets that are both sets whole are the same each time, and have no spread.
        subsets = 1 if size == model.n == reference.n else self.subsets
        values = (
            self._values(model, reference, size, subsets=subsets)
            if size > 1
            else np.array([np.nan])
        )
        return [
            Score(
                name=self.name,
                value=float(values.mean()),
                better=Better.LOWER,
                n=model.n,
                deviation=float(values.std()) if subsets > 1 else None,
                interval=f"s.d. of {subsets} subsets of {size}" if subsets > 1 else "",
                details={"subset_size": size, "subsets": subsets, "seed": self.seed},
            )
        ]

    def _values(
        self, model: FeatureSet, reference: FeatureSet, size: int, *, subsets: int
    ) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        assert model.rows is not None
        assert reference.rows is not None
        rng = np.random.RandomState(self.seed)  # as torch-fidelity
        found = np.empty(subsets)
        for i in range(subsets):
            ours = model.rows[rng.choice(model.n, size, replace=False)].double()
            theirs = reference.rows[rng.choice(reference.n, size, replace=False)].double()
            found[i] = poly_mmd(ours, theirs, degree=3, gamma=None, coef=1.0).item()
        return found
