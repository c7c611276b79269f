"""What a section of `bench.gpu` comes to when parts of it fail, take too long or never begin. That
all sections run is seen by `bench/gpu.sh --cpu`, which CI calls.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.sections import shards, trained
from bench.sections.ladder import RUNGS, rungs
from bench.sections.profile import purpose
from bench.sections.rate import rate_of
from bench.sections.section import Section, read
from bench.sections.setting import TOY
from bksdm.models.cost import step_flops, unet_module_cost
from bksdm.models.teacher import load_teacher, weights_hash
from bksdm.surgery.blocks import remove_blocks
from bksdm.surgery.plan import BASE

ROOT = Path(__file__).parents[1]


@pytest.fixture
def section(tmp_path: Path) -> Section:
    setting = replace(TOY, folder=tmp_path / "teacher")
    return Section(file=tmp_path / "s.jsonl", folder=tmp_path, setting=setting, seconds=60)


def raising(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_a_section_goes_on_after_a_failure(section: Section) -> None:
    def first() -> None:
        section.row("speed", what="first", rate=1234.5678)
        raise ValueError("broken\nand more")

    assert not section.attempt("first", first, seconds=1)
    assert not section.attempt("large", raising(torch.OutOfMemoryError("of it")), seconds=1)
    assert section.attempt(
        "second", lambda: section.row("speed", what="second", GiB="3"), seconds=1
    )
    written = read(section.file)
    assert written.text.splitlines() == [
        "speed: what      rate  GiB",
        "-----------  --------  ---",
        "first        1.23e+03    -",
        "second              -    3",
        "",
        "- FAILED first: ValueError: broken",
        "- large: out of memory",
    ]
    assert written.failed == ("first: ValueError: broken",)  # memory is an answer, no failure


def test_a_part_that_takes_too_long_is_stopped(section: Section) -> None:
    section.seconds += 2.9 - section.left
    assert not section.attempt("slow", lambda: time.sleep(30), seconds=1)
    assert not section.attempt("late", lambda: None, seconds=10)
    written = read(section.file)
    assert "- slow: stopped, as it takes more than 2 s" in written.text
    assert "- late: not begun" in written.text
    assert not written.failed


def test_what_needs_a_gpu_is_not_tried_without(section: Section) -> None:
    assert not section.attempt("kernel", raising(AssertionError()), seconds=1, gpu=True)
    assert read(section.file).text == "- kernel: needs a GPU"


def test_a_section_that_dies_keeps_its_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parent prints what there is, says how it ended, and begins the next one."""
    child = """
import os, sys
from pathlib import Path
file = Path(sys.argv[sys.argv.index("--results") + 1])
file.write_text('{"table": "t", "cells": {"what": "' + file.stem + '"}}\\n')
if file.stem == "ladder":
    print("so it ends")
    os._exit(9)
"""
    started: list[list[str]] = []
    popen = subprocess.Popen

    def start(command: list[str], **settings: object) -> object:
        started.append(command)
        return popen([sys.executable, "-c", child, *command[4:]], **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(gpu.subprocess, "Popen", start)
    monkeypatch.setattr(
        sys, "argv", ["gpu", "--cpu", "--results", str(tmp_path), "--seconds", "50",
                      "ladder", "recipe"],
    )  # fmt: skip
    assert gpu.main() == 1
    text = capsys.readouterr().out
    assert [command[command.index("--only") + 1] for command in started] == ["ladder", "recipe"]
    assert "t: what\n-------\nladder\n- exit code 9; its log ends:\n    so it ends" in text
    assert "t: what\n-------\nrecipe\n" in text
    assert text.splitlines()[-2].startswith("FAILED ladder: exit code 9")


def test_sections_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--cpu", "warp"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    there = {path.stem for path in (ROOT / "bench" / "sections").glob("*.py")}
    assert set(gpu.SHARES) <= there


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="finds no GPU; --cpu makes a dry run"):
        gpu.main()


def test_rungs_add_up() -> None:
    steps = rungs()
    assert steps["+ compile"].speed.teacher_precision == "bfloat16"
    assert steps["+ compile"].speed.channels_last
    assert steps["+ compile"].adam == "fused"
    assert len(set(map(str, steps.values()))) == len(RUNGS)


class Clockwork:
    """Half a second a step, and 8 for the first block."""

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def block(self, steps: int) -> float:
        self.blocks.append(steps)
        return 0.5 * steps if len(self.blocks) > 1 else 8.0

    def close(self) -> None:
        """Nothing."""


def test_rates_are_of_the_steps_after_the_first() -> None:
    runner = Clockwork()
    rate = rate_of(runner, replace(TOY, steps=6), 4, flops=10)
    assert runner.blocks == [2, 6]
    assert (rate.images, rate.flops) == (8, 80)
    assert rate.cells(matmul=100)["of matmul"] == "80.0%"


def test_the_teacher_is_made_once(tmp_path: Path) -> None:
    setting = replace(TOY, folder=tmp_path / "teacher")
    made = setting.teacher
    assert made.source.path == str(tmp_path / "teacher")
    assert weights_hash(made.unet) == weights_hash(load_teacher(TOY.world.source()).unet)
    teacher, tokens = made.unet, made.tokenizer.model_max_length
    networks = (teacher, remove_blocks(teacher, plan=BASE))
    costs = [unet_module_cost(network, tokens=tokens).total.macs for network in networks]
    assert setting.flops(BASE) == step_flops(*costs)


def test_a_command_that_is_stopped_is_no_failure(
    section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow() -> int:
        try:
            time.sleep(30)
        except KeyboardInterrupt:
            return 130
        return 0

    def refused() -> int:
        print("data.shards=x: no such shards", file=sys.stderr)
        return 2

    monkeypatch.setattr(shards, "main", refused)
    assert not section.attempt("train", lambda: shards.bksdm("train"), seconds=1)
    section.seconds += 2.9 - section.left
    monkeypatch.setattr(shards, "main", slow)
    assert not section.attempt("again", lambda: shards.bksdm("train"), seconds=1)
    written = read(section.file)
    assert written.failed == (
        "train: RuntimeError: bksdm train: exit code 2: data.shards=x: no such shards",
    )
    assert "again: stopped" in written.text


def test_a_run_is_timed_between_logged_steps() -> None:
    ends = [10.0, 11, 12, 14, 16, 17, 18]  # every second one is logged: 11, 14, 17
    assert trained._rate(ends, every=2, batch=3) == 2 * 2 * 3 / 6
    assert trained._rate(ends[:3], every=2, batch=3) is None


@pytest.mark.parametrize(
    ("kernel", "what"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma", "attention"),
        ("triton_red_fused_native_group_norm_silu_3", "norms"),
        ("triton_poi_fused_convolution_add_12", "fused by compile"),
        ("triton_poi_fused_add_convolution_native_group_norm_silu_4", "fused by compile"),
        ("triton_poi_fused__scaled_dot_product_flash_attention_view_7", "fused by compile"),
        ("multi_tensor_apply_kernel<LpNormFunctor>", "optimiser, average, clipping"),
        ("distribution_elementwise_grid_stride_kernel<normal_and_transform>", "other"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32", "convolutions"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "matrix products"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimiser, average, clipping"),
        ("void at::native::elementwise_kernel<direct_copy_kernel_cuda>", "copies, casts, layouts"),
        ("aten::mkldnn_convolution", "convolutions"),
    ],
)  # fmt: skip
def test_kernels_have_purposes(kernel: str, what: str) -> None:
    assert purpose(kernel) == what
