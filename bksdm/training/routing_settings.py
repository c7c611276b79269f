"""Settings of APTP's first stage: how a router is trained, and deployed."""

import math
from dataclasses import dataclass, field

from bksdm import expected
from bksdm.errors import InputError
from bksdm.gates.attach import POSITIONS, Position
from bksdm.gates.budget import COUNTINGS, Budget, Counting
from bksdm.gates.relax import Relaxation
from bksdm.gates.router import Sinkhorn
from bksdm.losses.routing import RoutingWeights
from bksdm.surgery.scores import Worth


@dataclass(frozen=True, kw_only=True)
class RoutingSettings:
    """How router and codes are trained, and deployed. `conf/method/aptp.yaml` is ours,
    `aptp_published.yaml` what the published code does.

    Attributes:
        experts: N, the number of codes.
        target: p, the share of the U-Net's MACs that an image should cost on average.
        warmup: steps in which the predictor's own gates prune each sample, before codes do: a
            number, or below 1 a share of all steps.
        seed_codes: after the warm-up codes begin as parts of what the predictor has learnt, of one
            micro-batch of all processes; else as orthogonal vectors, all of whose gates are open.
        position: where gates act (`gates.attach`).
        counting: of MACs (`gates.budget`).
        hard: after the warm-up the U-Net sees gates of 0 and 1, as it will when it is cut; else
            soft ones.
        noise: gates have Gumbel noise in training.
        noisy_routing: similarities have it, too.
        link: temperature at which the choice of a code has a gradient; None for none: then the
            router learns from the contrastive term alone.
        standardise: the predictor reads embeddings less their mean, over their deviation; as they
            are, they are nearly parallel.
        balance: offsets make the codes' shares of the training prompts equal.
        meet_budget: the codes are cut where the mean over the training prompts meets the target;
            else where their own gates are below 1/2.
        same_size: each code meets the target by itself, and not their mean.
        min_snr_gamma: Min-SNR weighting of the denoising term; None switches it off.
        gradient_clip: global gradient norm; null clips nothing.
        relaxation: of logits.
        sinkhorn: of the routing in training, which gives codes equal shares of each batch; None:
            each prompt goes to its nearest code.
        weights: of the terms.
    """

    experts: int
    target: float
    warmup: float
    seed_codes: bool = True
    position: Position = "conv2"
    counting: Counting = "true"
    hard: bool = True
    noise: bool = True
    noisy_routing: bool = False
    link: float | None = 0.05
    standardise: bool = True
    balance: bool = True
    meet_budget: bool = True
    same_size: bool = False
    min_snr_gamma: float | None = 5.0
    gradient_clip: float | None = None
    relaxation: Relaxation = Relaxation()  # noqa: RUF009 - frozen
    sinkhorn: Sinkhorn | None = Sinkhorn()  # noqa: RUF009 - frozen
    weights: RoutingWeights = field(default_factory=RoutingWeights)

    def __post_init__(self) -> None:
        expected.count("method.experts", self.experts, least=1)
        expected.number("method.target", self.target, above=0, most=1)
        expected.number("method.warmup", self.warmup, least=0)
        expected.one_of("method.position", self.position, POSITIONS)
        expected.one_of("method.counting", self.counting, COUNTINGS)
        for name in (
            "seed_codes",
            "hard",
            "noise",
            "noisy_routing",
            "standardise",
            "balance",
            "meet_budget",
            "same_size",
        ):
            expected.switch(f"method.{name}", getattr(self, name))
        if self.same_size and not self.meet_budget:
            raise InputError(
                "method.same_size=true and method.meet_budget=false: expected both true, as each"
                " code is to meet the budget"
            )
        for name in ("link", "min_snr_gamma", "gradient_clip"):
            if getattr(self, name) is not None:
                expected.number(f"method.{name}", getattr(self, name), above=0)

    def warmup_steps(self, steps: int) -> int:
        """Of a run of so many steps.

        Raises:
            InputError: none would be left for the codes.
        """
        found = math.ceil(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        if found >= steps:
            raise InputError(
                f"method.warmup={self.warmup:g} takes all of trainer.max_steps={steps}; expected"
                " less: codes are trained after it"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class ChosenSettings:
    """One architecture that is made without training: units by what they are worth.

    Attributes:
        target: p, the share of the U-Net's MACs that it costs; all modules stay.
        worth: how units are ranked.
    """

    target: float
    worth: Worth

    def __post_init__(self) -> None:
        expected.number("method.target", self.target, above=0, most=1)


def check_target(target: float, budget: Budget, *, depth: bool = True) -> None:
    """Refuse a target that no architecture can meet; with `depth` modules may go, too.

    Raises:
        InputError: says which can be met.
    """
    least = budget.least(depth=depth) / budget.total
    if target < least:
        raise InputError(
            f"method.target={target:g}: expected {math.ceil(1000 * least) / 1000:g} to 1"
            " of the U-Net's MACs; at least a unit of each layer stays"
        )
