"""Traced memory against what torch's allocator hands out to real steps."""

from dataclasses import replace

import pytest

from bench.memory import CASES, Case, estimated, handed_out
from bksdm.models.cost import parameter_count
from bksdm.training.memory import Memory, traced_memory
from bksdm.training.optim import AdamW8bitSettings, OptimizerSettings
from bksdm.training.speed import SpeedSettings

SMALL_BATCH = {name: replace(case, batch=32) for name, case in CASES.items()}


class EightBit(AdamW8bitSettings):
    """The settings of `optimizer=adamw_8bit`, also where bitsandbytes is not installed."""

    def __post_init__(self) -> None:
        OptimizerSettings.__post_init__(self)


def traced(case: Case, **changes: bool | int) -> Memory:
    settings = {"cuda": False} | changes
    return traced_memory(
        case.build, batch=case.shape(), precision=case.precision, ema_decay=0.9, **settings
    )


@pytest.mark.parametrize("name", ["shapes, pictures", "shapes, gradient checkpointing"])
def test_the_estimate_is_what_real_steps_take(name: str) -> None:
    case = SMALL_BATCH[name]
    assert estimated(case) == pytest.approx(handed_out(case), rel=0.05)


def test_it_is_with_bf16_and_latents() -> None:
    case = replace(SMALL_BATCH["shapes, bf16, bf16 teacher"], latents=True)
    assert estimated(case) == pytest.approx(handed_out(case), rel=0.05)


def test_parts_are_what_they_hold() -> None:
    case = SMALL_BATCH["shapes, latents"]
    whole = traced(case)
    module = case.build()
    weights = 4 * parameter_count(module.student)
    assert whole.weights == whole.gradients == whole.ema == weights
    assert whole.optimizer == pytest.approx(2 * weights, rel=1e-3)
    assert whole.teacher == 4 * parameter_count(module.teacher.unet)
    half = traced(replace(case, speed=SpeedSettings(teacher_precision="bfloat16")))
    assert 2 * half.teacher == whole.teacher
    assert half.weights == whole.weights


def test_eight_bit_moments_take_a_byte_each() -> None:
    case = SMALL_BATCH["shapes, latents"]

    eight = replace(case, optimizer=EightBit)
    assert traced(eight).optimizer == pytest.approx(traced(case).optimizer / 4, rel=1e-2)
    assert traced(eight).activations == traced(case).activations


def test_switches_do_to_memory_what_they_are_for() -> None:
    case = SMALL_BATCH["shapes, pictures"]
    plain = traced(case).total
    assert traced(SMALL_BATCH["shapes, gradient checkpointing"]).total < plain
    bf16 = replace(case, precision="bf16-mixed")
    on_cpu, on_gpu = traced(bf16), traced(bf16, cuda=True)
    assert on_cpu.total < on_gpu.total < plain  # a GPU's autocast keeps norms in float32
    assert traced(case, processes=2).total >= plain
