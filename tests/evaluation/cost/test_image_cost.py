import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from bksdm.errors import InputError
from bksdm.evaluation.cost.image_cost import (
    PipelineParts,
    image_cost,
    parts_of_configs,
    parts_of_pipeline,
    unet_calls,
)
from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.prompts import from_texts
from bksdm.export.pipeline import assemble
from bksdm.models.source import TeacherSource, architecture
from bksdm.models.teacher import load_teacher
from bksdm.surgery.blocks import student_config
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan
from tests.conftest import tiny_pipeline
from tests.models.test_cost import ARCHITECTURE

SD14 = PipelineParts(
    ARCHITECTURE["unet"],
    ARCHITECTURE["vae"],
    ARCHITECTURE["text_encoder"],
    PNDMScheduler(skip_prk_steps=True),
)
SCHEDULERS: list[tuple[type[SchedulerMixin], dict[str, Any], int]] = [
    (PNDMScheduler, {"skip_prk_steps": True}, 26),  # Stable Diffusion's own
    (PNDMScheduler, {}, 34),
    (DPMSolverMultistepScheduler, {}, 25),
    (DDIMScheduler, {}, 25),
    (DDPMScheduler, {}, 25),
    (EulerDiscreteScheduler, {}, 25),
    (UniPCMultistepScheduler, {}, 25),
    (HeunDiscreteScheduler, {}, 49),
    (KDPM2DiscreteScheduler, {}, 49),
]


def rows_of_an_image(pipeline: StableDiffusionPipeline, guidance: float) -> dict[str, list[int]]:
    """Rows of every call of U-Net and text encoder while an image is made in 25 steps."""
    rows: dict[str, list[int]] = {"unet": [], "text_encoder": []}
    pipeline.unet.register_forward_pre_hook(
        lambda module, inputs: rows["unet"].append(len(inputs[0]))
    )
    pipeline.text_encoder.register_forward_hook(
        lambda module, inputs, output: rows["text_encoder"].append(len(output[0]))
    )
    sampling = Sampling(steps=25, guidance=guidance, batch_size=1)
    list(generate(pipeline, from_texts(["a circle"], seed=0), sampling))
    return rows


@pytest.fixture
def pipeline() -> StableDiffusionPipeline:
    pipeline = tiny_pipeline("sd1")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("kind", "settings", "calls"), SCHEDULERS)
def test_calls_are_those_that_sampling_makes(
    pipeline: StableDiffusionPipeline,
    kind: type[SchedulerMixin],
    settings: dict[str, Any],
    calls: int,
) -> None:
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **settings)
    assert unet_calls(pipeline.scheduler, 25) == calls
    assert rows_of_an_image(pipeline, guidance=1.0)["unet"] == [1] * calls


@pytest.mark.parametrize(("guidance", "rows"), [(7.5, 2), (1.0, 1)])
def test_guidance_doubles_rows_and_captions(
    pipeline: StableDiffusionPipeline, guidance: float, rows: int
) -> None:
    cost = image_cost(parts_of_pipeline(pipeline), steps=25, guidance=guidance)
    made = rows_of_an_image(pipeline, guidance)
    assert cost.rows == rows
    assert made["unet"] == [rows] * cost.unet_calls
    assert sum(made["text_encoder"]) == rows


def test_counting_calls_leaves_the_scheduler_alone() -> None:
    scheduler = PNDMScheduler(skip_prk_steps=True)
    scheduler.set_timesteps(10)
    before = scheduler.timesteps.clone()
    assert unet_calls(scheduler, 25) == 26
    assert torch.equal(scheduler.timesteps, before)


@pytest.mark.parametrize(
    ("plan", "parameters"),
    [
        (None, 1_032_071_623),
        (BASE, 751_935_623),
        (SMALL, 654_897_543),
        (TINY, 495_935_623),
    ],
)
def test_whole_models_as_published(plan: BlockPlan | None, parameters: int) -> None:
    unet = student_config(SD14.unet, plan) if plan else SD14.unet
    cost = image_cost(replace(SD14, unet=unet), steps=25, guidance=7.5)
    assert cost.image.parameters == parameters


def test_an_image_is_text_then_calls_then_decoding() -> None:
    cost = image_cost(SD14, steps=25, guidance=7.5)
    # Published: 338,749,194,240 a row of a call; 6.5 and 1,240.1 G for text and decoder.
    expected = 2 * 26 * 338_749_194_240 + 2 * 6.5e9 + 1240.1e9
    assert cost.image.macs_published == pytest.approx(expected, abs=0.2e9)
    single = image_cost(SD14, steps=25, guidance=1.0).image
    assert single.macs < 0.6 * cost.image.macs
    assert single.parameters == cost.image.parameters


def test_an_image_of_another_size() -> None:
    half = image_cost(SD14, steps=25, guidance=7.5, size=256)
    assert round(half.unet.total.macs / 1e9, 1) == 90.1
    own, decoders = image_cost(SD14, steps=25, guidance=7.5, size=512), half.vae_decoder
    assert own == image_cost(SD14, steps=25, guidance=7.5)
    assert own.vae_decoder.macs_published == 4 * decoders.macs_published  # it is convolutions


def test_a_u_net_with_distilled_guidance_is_called_once_a_step() -> None:
    parts = replace(SD14, unet=dict(SD14.unet) | {"time_cond_proj_dim": 256})
    cost = image_cost(parts, steps=4, guidance=7.5)
    assert cost.rows == 1


def test_configs_and_pipeline_agree_and_are_json() -> None:
    source = TeacherSource(name="shapes", path="embedded:shapes")
    teacher = load_teacher(source)
    costs = [
        image_cost(parts, steps=25, guidance=3.0)
        for parts in (
            parts_of_configs(architecture(source)),
            parts_of_pipeline(assemble(teacher, teacher.unet)),
        )
    ]
    assert costs[0] == costs[1]
    assert json.loads(json.dumps(asdict(costs[0])))["unet_calls"] == 25


def test_a_scheduler_of_no_class_is_refused() -> None:
    with pytest.raises(InputError, match=r"_class_name=None.*PNDMScheduler"):
        parts_of_configs(ARCHITECTURE)
