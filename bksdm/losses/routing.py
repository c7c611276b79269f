"""The losses of APTP's first stage (arXiv 2406.12042 and its code): denoising, distillation, the
MACs that are left, and prompts that stay apart as their embeddings are.

Pure functions, always in fp32 or more. Knows nothing of networks, gates or training.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bksdm import expected
from bksdm.batch import NoisyBatch, Prediction
from bksdm.errors import InputError
from bksdm.losses.distill import feature_loss, task_loss

CONTRAST_TEMPERATURE = 0.03


@dataclass(frozen=True, kw_only=True)
class RoutingWeights:
    """Weight of each term; a term with weight 0 is still reported."""

    denoising: float = 1.0
    output_kd: float = 0.2
    block_kd: float = 0.2
    resource: float = 2.0
    contrastive: float = 100.0
    spread: float = 0.1
    largest: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            expected.number(f"method.weights.{name}", value, least=0)
        if not self.resource:
            raise InputError("method.weights.resource=0: expected more, or nothing is pruned")


@dataclass(frozen=True)
class RoutingTerms:
    """The named terms, scalars. Only these are summed."""

    denoising: Tensor
    output_kd: Tensor
    block_kd: Tensor
    resource: Tensor
    contrastive: Tensor
    spread: Tensor
    largest: Tensor

    def total(self, weights: RoutingWeights) -> Tensor:
        """Weighted sum."""
        terms = vars(self).items()
        return torch.stack([getattr(weights, name) * term.float() for name, term in terms]).sum()


def routing_terms(
    guess: Prediction,
    teacher: Prediction,
    noisy: NoisyBatch,
    *,
    ratios: Tensor,
    target: float,
    gates: Tensor,
    embeddings: Tensor,
) -> RoutingTerms:
    """All terms of a step.

    Args:
        guess: of the gated network.
        teacher: of the network without gates; must carry no gradient.
        noisy: what both have seen.
        ratios: (B,), share of the prunable MACs that each sample keeps, of the global batch.
        target: the share that the mean should be.
        gates: (B, D), unit length, the predictor's for each sample of the global batch.
        embeddings: (B, E), as the predictor reads them.
    """
    blocks = feature_loss(guess.features, teacher.features, normalise=False)
    return RoutingTerms(
        denoising=task_loss(guess.sample, noisy),
        output_kd=F.mse_loss(guess.sample.float(), teacher.sample.float()),
        block_kd=blocks / max(len(guess.features), 1),
        resource=resource_loss(ratios, target),
        contrastive=contrastive_loss(gates, embeddings),
        spread=-ratios.std() if len(ratios) > 1 else torch.zeros_like(ratios[0]),
        largest=1 - ratios.max(),
    )


def resource_loss(ratios: Tensor, target: float) -> Tensor:
    """|log(mean r / p')|: single samples may differ, their mean should not."""
    return (ratios.mean() / target).log().abs()


def contrastive_loss(
    gates: Tensor, embeddings: Tensor, *, temperature: float = CONTRAST_TEMPERATURE
) -> Tensor:
    """Mean binary cross-entropy of two softmaxes over the rows of cosine similarities, those of the
    gates (B, D) and of the embeddings (B, E), diagonals included: prompts that are alike should get
    gates that are. A mean over B^2 pairs: what a weight means depends on the batch.
    """
    with torch.autocast(gates.device.type, enabled=False):  # CUDA's refuses this cross-entropy
        found, wanted = (
            F.softmax(unit @ unit.T / temperature, dim=1)
            for unit in (F.normalize(gates.float()), F.normalize(embeddings.detach().float()))
        )
        return F.binary_cross_entropy(found.clamp(0, 1), wanted.clamp(0, 1))
