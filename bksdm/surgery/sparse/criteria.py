"""Which weights go: each criterion takes a weight matrix, what is known of its inputs and a budget,
and gives the matrix back with zeros in it. Pure; knows nothing of networks.

R outputs, C columns (inputs).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from bksdm import expected
from bksdm.errors import InputError
from bksdm.surgery.sparse.budget import Budget, Granularity
from bksdm.surgery.sparse.obs import compensated
from bksdm.surgery.sparse.statistics import Inputs, Needs


class Criterion(Protocol):
    """Settings of a criterion: a frozen dataclass that conf/criterion/*.yaml names."""

    @property
    def needs(self) -> Needs:
        """What it must know of a layer's inputs."""

    def cut(
        self, weight: Tensor, inputs: Inputs | None, budget: Budget, rng: torch.Generator
    ) -> Tensor:
        """The matrix (R, C), float32, with zeros in it.

        Args:
            weight: (R, C), float32.
            inputs: of its layer; None where nothing is needed.
            budget: what must go.
            rng: for what is random, on the CPU.
        """


class Scoring(ABC):
    """A criterion that only chooses: what stays is as it was."""

    needs: ClassVar[Needs]

    @abstractmethod
    def scores(self, weight: Tensor, inputs: Inputs | None, rng: torch.Generator) -> Tensor:
        """Non-negative float32 (R, C); the lowest go."""

    def cut(
        self, weight: Tensor, inputs: Inputs | None, budget: Budget, rng: torch.Generator
    ) -> Tensor:
        """See `Criterion.cut`."""
        return zeroed(weight, budget.kept(self.scores(weight, inputs, rng)))


def zeroed(weight: Tensor, stay: Tensor) -> Tensor:
    """The weight where the mask says so, zero elsewhere."""
    return torch.where(stay, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


@dataclass(frozen=True, kw_only=True)
class Random(Scoring):
    """Any weights: the floor that a criterion must be better than."""

    needs: ClassVar[Needs] = Needs.NOTHING

    def scores(self, weight: Tensor, inputs: Inputs | None, rng: torch.Generator) -> Tensor:
        """Uniform."""
        del inputs
        return torch.rand(weight.shape, generator=rng).to(weight.device)


@dataclass(frozen=True, kw_only=True)
class Magnitude(Scoring):
    """The smallest weights, |W| (Han et al., arXiv 1506.02626)."""

    needs: ClassVar[Needs] = Needs.NOTHING

    def scores(self, weight: Tensor, inputs: Inputs | None, rng: torch.Generator) -> Tensor:
        """|W_ij|."""
        del inputs, rng
        return weight.abs()


@dataclass(frozen=True, kw_only=True)
class Wanda(Scoring):
    """The smallest products of a weight and the norm of its input (Sun et al., arXiv 2306.11695,
    equation 1).
    """

    needs: ClassVar[Needs] = Needs.SQUARES

    def scores(self, weight: Tensor, inputs: Inputs | None, rng: torch.Generator) -> Tensor:
        """See `wanda_scores`."""
        del rng
        return wanda_scores(weight, inputs)


def wanda_scores(weight: Tensor, inputs: Inputs | None) -> Tensor:
    """|W_ij| ||X_j||_2 / sqrt(N), (R, C): the root mean square of N inputs, as layers see unequal
    numbers of them, and are compared by OWL and by component.
    """
    assert inputs is not None
    return weight.abs() * (inputs.squares / inputs.rows).sqrt().to(weight)


@dataclass(frozen=True, kw_only=True)
class Obs:
    """Optimal brain surgeon, column by column, as in SparseGPT (Frantar and Alistarh, arXiv
    2301.00774): the weights that stay take over what those that go did.

    Attributes:
        block: columns among which what goes is chosen, and that are compensated together.
        damping: of the Hessian, relative to its mean diagonal.
        early: weight of a sample at the first denoising step; a U-Net's Hessian is summed over
            timesteps with weights that fall logarithmically from `early` to `late`, as in OBS-Diff
            (arXiv 2510.06751; 1.2 to 0.8). Equal: all timesteps count as much.
        late: of one at the last.
    """

    block: int = 128
    damping: float = 0.01
    early: float = 1.0
    late: float = 1.0

    needs: ClassVar[Needs] = Needs.PRODUCTS

    def __post_init__(self) -> None:
        expected.count("criterion.block", self.block, least=1)
        expected.number("criterion.damping", self.damping, above=0)
        expected.number("criterion.early", self.early, above=0)
        expected.number("criterion.late", self.late, above=0)

    def timestep_weights(self, progress: Tensor) -> Tensor:
        """Weights (B,) of samples whose denoising has come so far, 0 (noise) to 1 (picture)."""
        return self.early + (self.late - self.early) * torch.log1p((math.e - 1) * progress)

    def cut(
        self, weight: Tensor, inputs: Inputs | None, budget: Budget, rng: torch.Generator
    ) -> Tensor:
        """See `Criterion.cut`."""
        del rng
        assert inputs is not None
        assert inputs.products is not None
        if budget.granularity is Granularity.COMPONENT:
            raise InputError(
                "granularity=component: weights that are compensated change while they are chosen;"
                " expected tensor or row with this criterion"
            )
        return compensated(weight, inputs.products, budget, block=self.block, damping=self.damping)
