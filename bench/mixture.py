"""Routing of prompts that are embedded, and a mixture beside its experts that are run by hand."""

from collections.abc import Sequence
from typing import Final

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bench.evaluation import in_turns, rate
from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.prompts import Prompt, shapes_prompts
from bksdm.evaluation.report import table
from bksdm.evaluation.turns import in_turns as by_expert
from bksdm.export.mixture_pipeline import MixturePipeline
from bksdm.export.mixture_unet import MixtureUnet
from bksdm.gates.relax import Relaxation
from bksdm.gates.router import Router
from bksdm.surgery.sites import prunable_sites

EXPERTS: Final = 4


def routing(unet: UNet2DConditionModel, *, prompts: int, turns: int) -> str:
    """Prompts a second, once embedded, beside the plain product with the predictor's weights."""
    sites = prunable_sites(unet)
    router = Router(sites, experts=8, width=768, relaxation=Relaxation()).to(unet.device).eval()
    embeddings = torch.randn(prompts, 768, device=unet.device)

    def bare() -> None:
        embeddings.double() @ router.predictor.weight.double().T

    row = in_turns(
        lambda: rate(lambda: router.route(embeddings), prompts, unet.device),  # type: ignore[arg-type,return-value]
        lambda: rate(bare, prompts, unet.device),
        turns=turns,
    )
    name = f"{prompts:,} prompts, {sites.gates:,} gates, 8 codes"
    return table([[name, *row]], header=["prompts/s", "route", "one product", "ratio"])


def serving(
    stock: StableDiffusionPipeline,
    experts: Sequence[UNet2DConditionModel],
    *,
    batch: int,
    steps: int,
    turns: int,
) -> str:
    """Prompts in any order through the mixture, against each expert's prompts through a stock
    pipeline around it, which somebody has sorted before.
    """
    prompts = shapes_prompts(batch * len(experts), seed=0)
    numbers = {prompt.text: i % len(experts) for i, prompt in enumerate(prompts)}
    sampling = Sampling(steps=steps, guidance=3.0, batch_size=batch)
    unet = MixtureUnet(stock.unet.config, lambda i: experts[i], in_memory=len(experts))
    mixture = MixturePipeline(**{**stock.components, "unet": unet}, requires_safety_checker=False)
    mixture.set_progress_bar_config(disable=True)
    mixture.to(stock.device)
    mixture.of_experts(lambda texts: [numbers[t] for t in texts], weights="", shapes=list)
    own = [[p for p in prompts if numbers[p.text] == i] for i, _ in enumerate(experts)]

    def ours() -> None:
        _drawn(mixture, by_expert(mixture, prompts), sampling)

    def by_hand() -> None:
        for expert, mine in zip(experts, own, strict=True):
            stock.register_modules(unet=expert)
            _drawn(stock, mine, sampling)

    row = in_turns(
        lambda: rate(ours, len(prompts), stock.device),
        lambda: rate(by_hand, len(prompts), stock.device),
        turns=turns,
    )
    name = f"{len(experts)} experts, {len(prompts)} prompts, batch {batch}, {steps} steps"
    return table([[name, *row]], header=["images/s", "mixture", "by hand", "ratio"])


def _drawn(
    pipeline: StableDiffusionPipeline, prompts: Sequence[Prompt], sampling: Sampling
) -> None:
    for _ in generate(pipeline, prompts, sampling):
        pass
