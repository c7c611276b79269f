"""A step of the router's training, on a tiny real teacher."""

from typing import Any

import pytest
import torch

from bksdm.batch import TextImageBatch
from bksdm.data.samples import token_ids
from bksdm.errors import InputError
from bksdm.gates.budget import Budget
from bksdm.gates.router import Router
from bksdm.models.encoder import TeacherText
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher, weights_hash
from bksdm.surgery.sites import prunable_sites
from bksdm.training.module import StepSettings
from bksdm.training.optim import OptimizerSettings
from bksdm.training.routing import TERMS, Routing
from bksdm.training.routing_settings import RoutingSettings
from bksdm.training.speed import SpeedSettings

CAPTIONS = ("a red circle", "a blue square", "a small cross", "two triangles")
OPTIMIZER = OptimizerSettings(
    lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, schedule="constant", warmup_steps=0
)
PLAIN = SpeedSettings()
PUBLISHED: dict[str, Any] = {
    "position": "norm2",
    "counting": "published",
    "hard": False,
    "noisy_routing": True,
    "link": None,
    "standardise": False,
}


@pytest.fixture
def own(sd1_folder: Any) -> Teacher:
    return load_teacher(TeacherSource(name="tiny", path=str(sd1_folder)))


def routing(teacher: Teacher, *, speed: SpeedSettings = PLAIN, **changes: Any) -> Routing:
    """With some gates closed in each code."""
    settings = RoutingSettings(**{"experts": 2, "target": 0.6, "warmup": 1} | changes)
    sites = prunable_sites(teacher.unet)
    budget = Budget.of(teacher.unet.config, sites, 8, counting=settings.counting)
    encoder = TeacherText().load(teacher)
    router = Router(sites, experts=2, width=encoder.width, relaxation=settings.relaxation)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        router.codes.normal_(-3, 1, generator=rng)
        router.predictor.bias.sub_(3)
        router.predictor.weight.mul_(5)
    step = StepSettings(optimizer=OPTIMIZER, min_snr_gamma=5.0, gradient_clip=1.0, speed=speed)
    return Routing(
        router,
        teacher,
        encoder=encoder,
        budget=budget,
        settings=settings,
        step=step,
        steps=10,
        seed=1,
    )


def batch(teacher: Teacher) -> TextImageBatch:
    rng = torch.Generator().manual_seed(2)
    return TextImageBatch(
        tokens=token_ids(CAPTIONS, teacher.tokenizer),
        seeds=torch.arange(4),
        pixels=torch.rand(4, 3, 16, 16, generator=rng) * 2 - 1,
        captions=CAPTIONS,
    )


def gradients(module: Routing, *, step: int, terms: tuple[str, ...]) -> tuple[float, float]:
    """Sizes of those of the predictor and of the codes, of some terms."""
    found, _ = module.terms(batch(module.teacher), step=step)
    loss = torch.stack([getattr(found, name).float() for name in terms]).sum()
    parts = (module.router.predictor.weight, module.router.codes)
    grads = torch.autograd.grad(loss, parts, allow_unused=True)
    return tuple(0.0 if each is None else float(each.abs().sum()) for each in grads)  # type: ignore[return-value]


QUALITY = ("denoising", "output_kd", "block_kd", "resource")


def test_an_experts_loss_reaches_codes_and_router_as_ours_but_not_as_published(
    own: Teacher,
) -> None:
    predictor, codes = gradients(routing(own), step=1, terms=QUALITY)
    assert predictor > 0
    assert codes > 0
    predictor, codes = gradients(routing(own, **PUBLISHED), step=1, terms=QUALITY)
    assert predictor == 0
    assert codes > 0
    assert gradients(routing(own, **PUBLISHED), step=1, terms=("contrastive",))[0] > 0


@pytest.mark.parametrize("changes", [{}, PUBLISHED])
def test_in_the_warm_up_each_prompt_has_its_own_gates(
    own: Teacher, changes: dict[str, Any]
) -> None:
    module = routing(own, **changes)
    predictor, codes = gradients(module, step=0, terms=QUALITY)
    assert predictor > 0
    assert codes == 0
    embeddings = module.encoder.embed(CAPTIONS)
    values = module.decided(embeddings, torch.arange(4), step=0).values
    assert len(values.unique(dim=0)) == 4
    later = module.decided(embeddings, torch.arange(4), step=1).values
    assert len(later.unique(dim=0)) == 2  # two codes, two prompts each
    assert (len(later.unique()) == 2) is (not changes)  # 0 and 1, but as published


def test_what_is_frozen_stays_and_is_nowhere(own: Teacher) -> None:
    module = routing(own)
    before = weights_hash(own.unet)
    gradients(module, step=1, terms=QUALITY)
    assert weights_hash(own.unet) == before
    assert all(name.startswith("router.") for name in module.state_dict())
    assert all(parameter.grad is None for parameter in own.unet.parameters())
    assert not any(module._forward_pre_hooks for module in own.unet.modules())


def test_a_step_is_a_function_of_its_samples_and_its_number(own: Teacher) -> None:
    module = routing(own)
    one, again = (vars(module.terms(batch(own), step=3)[0]) for _ in range(2))
    assert all(one[name].equal(again[name]) for name in one)
    assert set(TERMS) == {*one, "macs", "loss"}
    other = vars(module.terms(batch(own), step=4)[0])
    assert not one["denoising"].equal(other["denoising"])  # the codes' noise


def test_half_open_gates_cost_less_and_open_ones_are_the_teacher(own: Teacher) -> None:
    module = routing(own, noise=False)
    with torch.no_grad():
        module.router.codes.fill_(20)
        module.router.codes[:, module.router.sites.units :] = 0
    terms, macs = module.terms(batch(own), step=1)
    assert float(macs) == 1
    assert not terms.output_kd.any()
    assert not terms.block_kd.any()


def test_checkpointing_is_refused_as_the_gates_would_have_gone(own: Teacher) -> None:
    with pytest.raises(InputError, match="gates have gone when the backward pass"):
        routing(own, speed=SpeedSettings(gradient_checkpointing=True))
