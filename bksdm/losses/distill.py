"""The three losses of BK-SDM (arXiv 2305.15798, section 3.2): task, output distillation, feature
distillation.

Pure functions of predictions and targets, always in fp32. Knows nothing of networks or training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bksdm.batch import NoisyBatch, Prediction
from bksdm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each term; a term with weight 0 is still reported."""

    task: float
    output_kd: float
    feature_kd: float

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0 or max(vars(self).values()) == 0:
            raise InputError(
                f"method.weights={vars(self)}: expected none negative and one positive"
            )


@dataclass(frozen=True)
class LossTerms:
    """The named terms, scalars. Only these are summed."""

    task: Tensor
    output_kd: Tensor
    feature_kd: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """Weighted sum."""
        return torch.stack(
            [getattr(weights, name) * term for name, term in vars(self).items()]
        ).sum()


def distillation_terms(
    student: Prediction, teacher: Prediction, noisy: NoisyBatch, *, normalise_features: bool
) -> LossTerms:
    """All terms of a step; the teacher's prediction must carry no gradient."""
    return LossTerms(
        task=task_loss(student.sample, noisy),
        output_kd=F.mse_loss(student.sample.float(), teacher.sample.float()),
        feature_kd=feature_loss(student.features, teacher.features, normalise=normalise_features),
    )


def task_loss(sample: Tensor, noisy: NoisyBatch) -> Tensor:
    """Mean squared error to epsilon or v; each sample with its (SNR) weight."""
    error = (sample.float() - noisy.target.float()).square().flatten(1).mean(1)
    return (noisy.weights * error).mean()


def feature_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, normalise: bool
) -> Tensor:
    """Mean squared error inside a layer, summed over layers as in BK-SDM (a mean over layers would
    rescale its weights).

    With `normalise`, each layer's error is divided by the mean square of the teacher's features
    there, so that no layer drowns the others (as LAPTOP-Diff, arXiv 2404.11098, does), and averaged
    over layers. It is divided sample by sample: what a sample contributes does not depend on which
    others share its micro-batch, and so not on the number of processes.
    """
    terms = []
    for guess, target in zip(student, teacher, strict=True):
        error = (guess.float() - target.float()).square().flatten(1).mean(1)
        size = target.float().square().flatten(1).mean(1)
        terms.append((error / size if normalise else error).mean())
    if not terms:
        return torch.zeros(())
    stacked = torch.stack(terms)
    return stacked.mean() if normalise else stacked.sum()
