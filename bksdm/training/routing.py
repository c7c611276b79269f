"""APTP's first stage: a router and architecture codes are trained on a frozen U-Net, which is
teacher and, with gates, student at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from bksdm.batch import NoisyBatch, Prediction, TextImageBatch
from bksdm.errors import InputError
from bksdm.gates.attach import gated
from bksdm.gates.budget import Budget
from bksdm.gates.relax import gumbel, gumbel_of, hardened
from bksdm.gates.router import Router, Sinkhorn, linked, signatures, similarities
from bksdm.losses.routing import RoutingTerms, routing_terms
from bksdm.models.cost import unet_cost
from bksdm.models.encoder import Encoder
from bksdm.models.teacher import Teacher
from bksdm.training.module import StepModule, StepSettings
from bksdm.training.predict import predict, sent
from bksdm.training.routing_settings import RoutingSettings
from bksdm.training.together import all_rows, gathered, summed

TERMS: Final = (*RoutingTerms.__dataclass_fields__, "macs", "loss")


@dataclass(frozen=True)
class Decided:
    """What the router says of a batch.

    Attributes:
        values: (B, D), gates that the U-Net sees.
        hard: (B, D), those that are counted, with a gradient.
        own: (B, D), the predictor's relaxed gates, by which prompts are routed.
    """

    values: Tensor
    hard: Tensor
    own: Tensor


class Routing(StepModule):
    """Trains a router; the U-Net is the teacher's, frozen, and held once.

    Args:
        router: to be trained.
        teacher: the frozen teacher.
        encoder: of captions.
        budget: MACs of the U-Net's gates.
        settings: of the method.
        step: of any training.
        steps: of the run.
        seed: of the codes' noise.
        identity: see `StepModule`.
    """

    doing = "route"
    term_names = TERMS

    def __init__(
        self,
        router: Router,
        teacher: Teacher,
        *,
        encoder: Encoder,
        budget: Budget,
        settings: RoutingSettings,
        step: StepSettings,
        steps: int,
        seed: int,
        identity: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(teacher, settings=step, identity=identity)
        if step.speed.gradient_checkpointing:
            raise InputError(
                "speed.gradient_checkpointing=true: the gates have gone when the backward pass"
                " computes the U-Net again; use false, and a smaller data.batch_size"
            )
        self.router = router
        self.encoder = encoder
        self.budget = budget
        self.settings = settings
        self.warmup = settings.warmup_steps(steps)
        self.seed = seed
        self.taps = block_names(teacher)

    @property
    def trained(self) -> Router:
        """The router."""
        return self.router

    def flops(self, resolution: int) -> int:
        """The U-Net forward twice, and once backward to its gates; its weights get no gradient."""
        teacher = self.teacher
        side, tokens = resolution // teacher.latent_factor, teacher.tokenizer.model_max_length
        return 2 * 3 * unet_cost(teacher.unet.config, side, tokens=tokens).macs

    def prepare(self, device: torch.device) -> None:
        """The teacher and the sentence encoder go to the device."""
        teacher = self.speed.frozen(self.teacher, device)
        self._held = (teacher, teacher)
        self.encoder.network.to(device)
        self.diffusion = self.diffusion.to(device)

    def terms(self, batch: TextImageBatch, *, step: int) -> tuple[RoutingTerms, Tensor]:
        """Noise, router, teacher, gated network, losses of a step after `step` others; and which
        share of the MACs is left.
        """
        embeddings = self.encoder.embed(batch.captions).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            decided = self.decided(embeddings, batch.seeds, step=step)
        return self._terms(batch, decided, embeddings, joined=gathered)

    def decided(self, embeddings: Tensor, seeds: Tensor, *, step: int) -> Decided:
        """Gates of a batch with these embeddings (B, E) and seeds (B,): in the warm-up each
        prompt's own, then those of the code that Sinkhorn gives it.
        """
        router, settings, sites = self.router, self.settings, self.router.sites
        logits = router(embeddings)
        noise = self._noise(gumbel_of(seeds, sites.gates)) if settings.noise else None
        own = router.gates(logits, noise=noise)
        routed = own if settings.noisy_routing or noise is None else router.gates(logits)
        if step < self.warmup:
            return Decided(own, hardened(own, sites), routed)
        codes = clean = router.gates(router.codes)
        if settings.noise:
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            drawn = gumbel(tuple(router.codes.shape), rng)  # the same in all processes
            codes = router.gates(router.codes, noise=self._noise(drawn))
        similarity = similarities(routed, codes if settings.noisy_routing else clean, sites)
        transport = settings.sinkhorn
        shares = similarity if transport is None else transport.shares(similarity, summed=summed)
        assigned = shares.argmax(1)
        chosen = self._chosen(assigned, similarity)
        hard = chosen @ hardened(codes, sites)
        return Decided(hard if settings.hard else chosen @ codes, hard, routed)

    def deployed(self, embeddings: Tensor, *, step: int) -> Decided:
        """The same as they would be if training ended here: without noise, hard, each prompt alone
        routed to its nearest code.
        """
        router = self.router
        own = router.gates(router(embeddings))
        hard = hardened(own, router.sites)
        if step >= self.warmup:
            hard = hardened(router.gates(router.codes), router.sites)[router.route(embeddings)]
        return Decided(hard, hard, own)

    @torch.no_grad()
    def seed_codes(self, batch: TextImageBatch) -> None:
        """Once, when the warm-up is over: of all processes' prompts, so that codes are the same in
        each (see `Router.seed_codes`).
        """
        with torch.autocast(self.device.type, enabled=False):
            embeddings = self.encoder.embed(batch.captions).to(self.device)
            self.router.seed_codes(
                gathered(self.router(embeddings)), self.settings.sinkhorn or Sinkhorn()
            )

    def _noise(self, drawn: Tensor) -> Tensor:
        return sent(drawn, self.device)

    def _chosen(self, assigned: Tensor, similarity: Tensor) -> Tensor:
        """One-hot rows (B, N)."""
        if self.settings.link is not None:
            return linked(assigned, similarity, temperature=self.settings.link)
        return torch.nn.functional.one_hot(assigned, self.router.experts).to(similarity.dtype)

    def _terms(
        self,
        batch: TextImageBatch,
        decided: Decided,
        embeddings: Tensor,
        *,
        joined: Callable[[Tensor], Tensor],
    ) -> tuple[RoutingTerms, Tensor]:
        """Terms of the rows that `joined` makes of those of all processes."""
        noisy = self.noise(batch)
        target, guess = self._answers(noisy, decided.values)
        with torch.autocast(self.device.type, enabled=False):
            hard = joined(decided.hard)
            terms = routing_terms(
                guess,
                target,
                noisy,
                ratios=self.budget.ratio(hard),
                target=self.budget.prunable_target(self.settings.target),
                gates=joined(signatures(decided.own, self.router.sites)),
                embeddings=joined(self.router.standardised(embeddings)),
            )
            macs = self.budget.macs(hard.detach()).mean() / self.budget.total
        return terms, macs.float()

    def _answers(self, noisy: NoisyBatch, gates: Tensor) -> tuple[Prediction, Prediction]:
        """Of the U-Net as it is, and with gates."""
        unet = self.teacher.unet
        with self.speed.kernels(), torch.autocast(self.device.type, enabled=self.cast_teacher):
            with torch.no_grad():
                target = predict(unet, noisy, taps=self.taps)
            with gated(unet, self.router.sites, gates, position=self.settings.position):
                return target, predict(unet, noisy, taps=self.taps)

    def training_step(self, batch: TextImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """One micro-batch: the loss to minimise, and all `TERMS`."""
        step = self.trainer.global_step
        first = batch_idx % self.trainer.accumulate_grad_batches == 0
        if first and step == self.warmup > 0 and self.settings.seed_codes:
            self.seed_codes(batch)
        terms, macs = self.terms(batch, step=step)
        total = terms.total(self.settings.weights)
        found = torch.stack([*[term.float() for term in vars(terms).values()], macs, total])
        # DistributedDataParallel waits for a gradient of every weight, and not each has one always.
        zero = 0 * torch.stack([weight.sum() for weight in self.router.parameters()]).sum()
        return {"loss": total + zero, "terms": found.detach()}

    def validation_step(self, batch: TextImageBatch, batch_idx: int) -> None:
        """The same terms of what would be deployed now."""
        del batch_idx
        embeddings = self.encoder.embed(batch.captions).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            decided = self.deployed(embeddings, step=self.trainer.global_step)
        terms, macs = self._terms(batch, decided, embeddings, joined=all_rows)
        named = {**vars(terms), "macs": macs, "loss": terms.total(self.settings.weights)}
        self.log_dict(
            {f"val/{name}": value.float() for name, value in named.items()},
            batch_size=1,  # Lightning rounds the mean of the processes' counts down
            sync_dist=True,
        )

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip; in the warm-up codes have no gradient, and Adam counts no steps of theirs."""
        if self.trainer.global_step < self.warmup:
            self.router.codes.grad = None
        super().configure_gradient_clipping(optimizer, *args, **kwargs)


def block_names(teacher: Teacher) -> Sequence[str]:
    """The blocks whose outputs are compared: down, mid and up."""
    unet = teacher.unet
    middle = ["mid_block"] * (unet.mid_block is not None)
    down = [f"down_blocks.{i}" for i, _ in enumerate(unet.down_blocks)]
    return [*down, *middle, *[f"up_blocks.{i}" for i, _ in enumerate(unet.up_blocks)]]
