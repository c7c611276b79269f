"""The router: from the embedding of a prompt to one of N architecture codes.

A linear predictor turns an embedding into the logits of all gates; the code whose gates are the
most similar takes the prompt. In training the codes share a batch out equally (Sinkhorn); later
each prompt goes its way alone.

Knows sites and relaxed gates. Knows nothing of text encoders, losses and training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bksdm import expected
from bksdm.gates.relax import Relaxation
from bksdm.surgery.sites import Sites

Summed = Callable[[Tensor], Tensor]
_ROUNDS: Final = 5
_ROWS: Final = 4096  # routed at once: their gates take 50 MB at the size of Stable Diffusion 2


class Router(nn.Module):
    """Predictor, codes, and what standardises embeddings.

    Args:
        sites: of the U-Net.
        experts: N, the number of codes.
        width: E, of embeddings.
        relaxation: of logits.
        seed: of the beginning: weights of each site orthogonal by themselves, as one layer a site
            would be, codes orthogonal, biases zero.
    """

    mean: Tensor
    scale: Tensor
    offsets: Tensor

    def __init__(
        self, sites: Sites, *, experts: int, width: int, relaxation: Relaxation, seed: int = 0
    ) -> None:
        super().__init__()
        self.sites = sites
        self.relaxation = relaxation
        self.predictor = nn.Linear(width, sites.gates)
        self.codes = nn.Parameter(torch.empty(experts, sites.gates))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        # Added to the similarities once the codes are deployed.
        self.register_buffer("offsets", torch.zeros(experts, dtype=torch.float64))
        generator = torch.Generator().manual_seed(seed)
        parts = [*sites.slices.values(), *[slice(sites.units, None)] * bool(sites.depth)]
        with torch.no_grad():
            for where in parts:
                nn.init.orthogonal_(self.predictor.weight[where], generator=generator)
            nn.init.zeros_(self.predictor.bias)
            nn.init.orthogonal_(self.codes, generator=generator)

    @property
    def experts(self) -> int:
        """Number of codes."""
        return len(self.codes)

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Take embeddings (B, E) less this mean (E,), over this deviation (E,), from now on; a
        dimension that never changes says nothing, and is left as it is.
        """
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def standardised(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, E) as the predictor reads them."""
        return (embeddings - self.mean) / self.scale

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits (B, D) of the gates that the predictor would give each prompt."""
        logits: Tensor = self.predictor(self.standardised(embeddings))
        return logits

    def gates(self, logits: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """Relaxed gates (B, D); see `Relaxation.relaxed`."""
        return self.relaxation.relaxed(logits, self.sites, noise=noise)

    @torch.no_grad()
    def seed_codes(self, logits: Tensor, sinkhorn: "Sinkhorn") -> None:
        """Begin the codes as equal parts of what the predictor gives some prompts, (B, D): a few
        rounds of k-means from the prompts that are the least alike.
        """
        own = signatures(self.gates(logits), self.sites)
        chosen = [int((own @ own.mean(0)).argmax())]
        while len(chosen) < self.experts:
            chosen.append(int((own @ own[chosen].T).amax(1).argmin()))
        codes = logits[chosen].clone()
        for _ in range(_ROUNDS):
            similarity = own @ signatures(self.gates(codes), self.sites).T
            of = sinkhorn.shares(similarity).argmax(1)
            for code in set(of.tolist()):
                codes[code] = logits[of == code].mean(0)
        self.codes.copy_(codes)

    @torch.no_grad()
    def scores(self, embeddings: Tensor) -> Tensor:
        """Similarity of each prompt to each code, with the codes' offsets: (B, N), float64.

        Without noise and in double precision, so that a prompt has the same ones in every batch.
        """
        signature = signatures(self.gates(self.codes.double()), self.sites)
        weight, bias = self.predictor.weight.double(), self.predictor.bias.double()
        found = []
        for part in torch.split(embeddings.double(), _ROWS):
            gates = self.gates(F.linear(self.standardised(part), weight, bias))
            found.append(signatures(gates, self.sites) @ signature.T + self.offsets)
        return torch.cat(found)

    def route(self, embeddings: Tensor) -> Tensor:
        """The code (B,), int64, of each prompt; does not depend on the others of the batch."""
        return self.scores(embeddings).argmax(1)


def signatures(gates: Tensor, sites: Sites) -> Tensor:
    """Gates (B, D) so that every site weighs the same, and what lies in a module no more than the
    module does; of length 1 (the published width-depth normalisation, soft throughout).
    """
    counts = torch.tensor([site.units for site in sites.width], device=gates.device)
    share = counts.to(gates.dtype).rsqrt()[sites.segments.to(gates.device)]
    one = gates.new_ones(len(gates), 1)
    above = torch.cat([gates, one], 1)[:, sites.depth_of_units.to(gates.device)]
    widths = gates[:, : sites.units] * above * share
    return F.normalize(torch.cat([widths, gates[:, sites.units :]], 1))


def similarities(one: Tensor, other: Tensor, sites: Sites) -> Tensor:
    """Cosine similarity (A, B) of gates (A, D) and (B, D), width-depth normalised."""
    return signatures(one, sites) @ signatures(other, sites).T


@dataclass(frozen=True, kw_only=True)
class Sinkhorn:
    """How the prompts of a batch are shared out equally among the codes.

    Attributes:
        epsilon: the smaller, the nearer to one code a prompt.
        iterations: of making rows and columns right in turn.
    """

    epsilon: float = 0.05
    iterations: int = 3

    def __post_init__(self) -> None:
        expected.number("method.sinkhorn.epsilon", self.epsilon, above=0)
        expected.count("method.sinkhorn.iterations", self.iterations, least=1)

    @torch.no_grad()
    def shares(self, similarity: Tensor, *, summed: Summed = torch.Tensor.clone) -> Tensor:
        """How much of each prompt goes to each code, (B, N): rows have the sum 1, and the columns
        of all processes together nearly the same.

        As in SwAV (arXiv 2006.09882, algorithm 1): codes to 1/K first, then samples to 1/B.

        Args:
            similarity: (B, N) of this process's prompts.
            summed: adds a tensor up over the processes.
        """
        # At most 1, so that a constant keeps exp in range and falls out of the first division.
        shares = torch.exp((similarity.double() - 1) / self.epsilon)
        batch = summed(shares.new_tensor(float(len(shares))))
        for _ in range(self.iterations):
            shares = shares / (summed(shares.sum(0)) * shares.shape[1])
            shares = shares / (shares.sum(1, keepdim=True) * batch)
        return shares * batch


def linked(assignment: Tensor, similarity: Tensor, *, temperature: float) -> Tensor:
    """One-hot weights (B, N) of the assigned codes (B,), with the gradient of softmax(similarity /
    temperature): so what an expert does to a prompt's loss reaches the router, and the code.
    """
    soft = F.softmax(similarity / temperature, dim=1)
    hard = F.one_hot(assignment, similarity.shape[1]).to(soft.dtype)
    return hard + (soft - soft.detach())
