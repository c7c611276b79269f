"""Inception Score: exp of the mean divergence of a picture's classes from those of all pictures.

Salimans et al., arXiv 1606.03498. Splits, shuffle and seed are torch-fidelity's, whose figures
papers report; torchmetrics' class cuts other splits, shuffles by the global seed and takes another
standard deviation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from bksdm import expected
from bksdm.evaluation.measures.feature_set import FeatureSet
from bksdm.evaluation.score import Better, Score


@dataclass(frozen=True, kw_only=True)
class InceptionScore:
    """Mean over splits of the model's pictures; needs no reference.

    Attributes:
        name: of the score.
        layer: of the network: class logits, without bias as in the original graph.
        splits: how many parts; as many as pictures if those are fewer.
        seed: of the shuffle.
    """

    name: str = "Inception Score"
    layer: str = "logits"
    splits: int = 10
    seed: int = 2020

    reference: ClassVar[None] = None
    needs_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expected.count("splits", self.splits, least=1)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (self.name,)

    def scores(self, model: FeatureSet, reference: FeatureSet | None) -> Sequence[Score]:
        """One score, with the standard deviation over the splits; NaN without pictures."""
        del reference
        assert model.rows is not None
        rng = np.random.RandomState(self.seed)  # as torch-fidelity
        logits = model.rows[torch.from_numpy(rng.permutation(model.n))].double()
        log_p = logits.log_softmax(dim=1)
        splits = min(self.splits, model.n)
        values = []
        for i in range(splits):
            part = log_p[i * model.n // splits : (i + 1) * model.n // splits]
            marginal = part.logsumexp(dim=0) - np.log(len(part))
            values.append((part.exp() * (part - marginal)).sum(1).mean().exp().item())
        mean = float(np.mean(values)) if values else float("nan")
        deviation = float(np.std(values)) if values else float("nan")
        return [
            Score(
                name=self.name,
                value=mean,
                better=Better.HIGHER,
                n=model.n,
                deviation=deviation,
                interval=f"s.d. of {splits} splits",
                details={"splits": splits, "seed": self.seed},
            )
        ]
