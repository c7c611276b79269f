"""Counts against what is published and against shared/facts/trainers.md, section 2.3, and
bk-sdm.md, section 1.4: one picture of 512 pixels.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from torch import nn

from bksdm.models.cost import (
    NOTHING,
    Cost,
    module_costs,
    step_flops,
    text_encoder_cost,
    text_encoder_macs,
    unet_cost,
    unet_cost_by_stage,
    unet_module_cost,
    vae_decoder_cost,
    vae_encoder_macs,
)
from bksdm.surgery import plans
from bksdm.surgery.blocks import student_config
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan
from tests.conftest import WIDTH, tiny_unet
from tests.experts import tiny_plan
from tests.golden import SD2

ROOT = Path(__file__).parents[2]
ARCHITECTURE: dict[str, Any] = yaml.safe_load((ROOT / "conf/teacher/sd14.yaml").read_text())[
    "architecture"
]
UNET = ARCHITECTURE["unet"]


def giga(macs: int) -> float:
    return round(macs / 1e9, 1)


def mega(number: int) -> float:
    return float(f"{number / 1e6:.3g}")


def test_sd14_and_its_students_cost_what_is_known() -> None:
    students = [student_config(UNET, plan) for plan in (BASE, SMALL, TINY)]
    teacher, *cut = (unet_cost(config).macs for config in (UNET, *students))
    assert [giga(macs) for macs in (teacher, *cut)] == [401.6, 261.5, 255.4, 242.8]
    # The facts' backward skips the gradient of the input latents, 0.002 TFLOP.
    for macs, tera in zip(cut, (2.37, 2.33, 2.26), strict=True):
        assert step_flops(teacher, macs) / 1e12 == pytest.approx(tera, abs=0.006)


@pytest.mark.parametrize(
    ("plan", "parameters", "published"),
    [
        (None, 859_520_964, 338_749_194_240),
        (BASE, 579_384_964, 223_755_632_640),
        (SMALL, 482_346_884, 217_727_959_040),
        (TINY, 323_384_964, 205_035_274_240),
    ],
)
def test_integers_of_the_paper(plan: BlockPlan | None, parameters: int, published: int) -> None:
    cost = unet_cost(student_config(UNET, plan) if plan else UNET)
    assert (cost.parameters, cost.macs_published) == (parameters, published)


def test_sd2_in_both_conventions() -> None:
    plans = (BASE, SMALL, TINY)
    published = [unet_cost(student_config(SD2, plan)).macs_published for plan in plans]
    assert [giga(unet_cost(SD2).macs_published), *map(giga, published)] == [
        339.2,
        224.1,
        218.0,
        205.3,
    ]
    # At 768 pixels.
    assert giga(unet_cost(SD2, 96).macs) == 1074.6
    assert giga(unet_cost(student_config(SD2, BASE), 96).macs) == 690.8


def test_at_half_the_resolution() -> None:
    assert giga(unet_cost(UNET, 32).macs) == 90.1


@pytest.mark.parametrize("plan", [None, BASE, SMALL, TINY])
@pytest.mark.parametrize("config", [UNET, SD2])
def test_the_stages_add_up_to_the_total(config: dict[str, Any], plan: BlockPlan | None) -> None:
    config = student_config(config, plan) if plan else config
    cost = unet_cost_by_stage(config)
    assert sum(cost.stages.values(), NOTHING) == cost.total
    stages = range(plan.stages if plan else 4)
    middle = ["mid"] if plan is None or plan.mid else []
    down, up = ([f"{half} {i}" for i in stages] for half in ("down", "up"))
    assert list(cost.stages) == ["in", *down, *middle, *up, "out"]


def test_removing_the_mid_saves_many_weights_and_few_macs() -> None:
    mid = unet_cost_by_stage(UNET).stages["mid"]
    base, small = (unet_cost(student_config(UNET, plan)) for plan in (BASE, SMALL))
    assert small + mid == base
    assert (mega(mid.parameters), giga(mid.macs)) == (97.0, 6.0)


@pytest.mark.parametrize(
    ("unit", "parameters", "macs"),
    [
        ("down_blocks.0.resnets.1", 2.26, 7.6),
        ("down_blocks.0.attentions.1", 2.55, 19.4),
        ("down_blocks.1.resnets.0", 6.56, 5.9),
        ("down_blocks.2.attentions.0", 34.8, 8.8),
        ("mid_block.attentions.0", 34.8, 2.3),
        ("up_blocks.0.resnets.2", 49.2, 3.0),
        ("up_blocks.1.resnets.2", 41.0, 10.1),
        ("up_blocks.3.resnets.0", 4.41, 16.4),
    ],
)
def test_units_of_sd14(
    sd14_modules: dict[str, Cost], unit: str, parameters: float, macs: float
) -> None:
    cost = sd14_modules[unit]
    assert (mega(cost.parameters), giga(cost.macs)) == (parameters, macs)


@pytest.fixture(scope="module")
def sd14_modules() -> dict[str, Cost]:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNET)
        inputs = torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 768)
    return module_costs(unet, lambda: unet(*inputs))


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_a_network_with_weights_costs_what_its_config_does(kind: str) -> None:
    unet = tiny_unet(kind)
    inputs = torch.zeros(1, 4, 8, 8), torch.tensor(5), torch.zeros(1, 7, WIDTH)
    costs = module_costs(unet, lambda: unet(*inputs))
    assert costs[""] == unet_cost(unet.config, tokens=7)
    assert not any(module._forward_hooks for module in unet.modules())


def test_the_conventions_differ_by_attention_products_and_layer_norms() -> None:
    # 12 layers, 77 tokens, width 768: Q K^T and A V; 2 norms a layer and a last one.
    cost = text_encoder_cost(ARCHITECTURE["text_encoder"])
    products, norms = 12 * 2 * 77 * 77 * 768, 25 * 77 * 768
    assert cost.macs - cost.macs_published == products - 4 * norms


def test_the_encoders_cost_what_is_known() -> None:
    assert vae_encoder_macs(ARCHITECTURE["vae"], 512) / 1e9 == pytest.approx(558, abs=1)
    assert giga(text_encoder_macs(ARCHITECTURE["text_encoder"])) == 6.6


def test_published_costs_of_text_encoder_and_decoder() -> None:
    text = text_encoder_cost(ARCHITECTURE["text_encoder"])
    assert (text.parameters, giga(text.macs_published)) == (123_060_480, 6.5)
    decoder = vae_decoder_cost(ARCHITECTURE["vae"], 64)
    assert (decoder.parameters, giga(decoder.macs_published)) == (49_490_179, 1240.1)
    # One head over 64 x 64 places of 512 channels; the decoder has no LayerNorm.
    assert decoder.macs - decoder.macs_published == 2 * 4096**2 * 512


def test_a_narrow_unet_is_counted_as_it_is_and_left_alone() -> None:
    unet = tiny_unet("sd1")
    whole = unet_cost_by_stage(unet.config)
    calls: list[nn.Module] = []
    small = plans.cut(unet, tiny_plan())
    small.down_blocks[0].register_forward_hook(lambda module, *_: calls.append(module))
    cost = unet_module_cost(small)
    assert cost.total.parameters == sum(each.numel() for each in small.parameters())
    assert cost.total.macs < whole.total.macs
    assert cost.stages["up 1"].macs < whole.stages["up 1"].macs
    assert not calls
    small(torch.randn(1, 4, 8, 8), 1, torch.randn(1, 2, WIDTH))
    assert calls == [small.down_blocks[0]]
