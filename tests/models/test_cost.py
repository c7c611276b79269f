"""Counts against shared/facts/trainers.md, section 2.3: torch's counter on one picture of 512
pixels.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bksdm.models.cost import step_flops, text_encoder_macs, unet_cost, vae_encoder_macs
from bksdm.surgery.blocks import student_config
from bksdm.surgery.plan import BASE, SMALL, TINY

ROOT = Path(__file__).parents[2]
ARCHITECTURE: dict[str, Any] = yaml.safe_load((ROOT / "conf/teacher/sd14.yaml").read_text())[
    "architecture"
]
UNET = ARCHITECTURE["unet"]


def giga(macs: int) -> float:
    return round(macs / 1e9, 1)


def test_sd14_and_its_students_cost_what_is_known() -> None:
    students = [student_config(UNET, plan) for plan in (BASE, SMALL, TINY)]
    teacher, *cut = (unet_cost(config).macs for config in (UNET, *students))
    assert [giga(macs) for macs in (teacher, *cut)] == [401.6, 261.5, 255.4, 242.8]
    # The facts' backward skips the gradient of the input latents, 0.002 TFLOP.
    for macs, tera in zip(cut, (2.37, 2.33, 2.26), strict=True):
        assert step_flops(teacher, macs) / 1e12 == pytest.approx(tera, abs=0.006)


def test_at_half_the_resolution() -> None:
    assert giga(unet_cost(UNET, 32).macs) == 90.1


def test_the_encoders_cost_what_is_known() -> None:
    assert vae_encoder_macs(ARCHITECTURE["vae"], 512) / 1e9 == pytest.approx(558, abs=1)
    assert giga(text_encoder_macs(ARCHITECTURE["text_encoder"])) == 6.6
