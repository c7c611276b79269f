"""What `bksdm check` says of a run that has not begun."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_run_arguments
from tests.models.test_teacher import edited

Cli = Callable[..., int]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")


def planned(arguments: list[str], *extra: str) -> list[str]:
    """The arguments of a training, for a check that reads no sample."""
    return ["check", *arguments[1:], "shards=index", "rehearsal=0", *extra]


def test_a_run_that_can_begin_costs_what_it_says(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", *tiny_run[1:], "shards=index", "rehearsal=2", "format=json", "price=3"]
    arguments += ["name=2026"]
    assert run_cli(*arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == []
    weights = told["networks"]["student"]["parameters"] * 4
    memory = told["memory"]
    assert memory["weights"] == memory["gradients"] == memory["ema"] == weights
    assert memory["activations"] > 0
    assert memory["total"] == sum(
        size for part, size in memory.items() if part not in ("total", "device")
    )
    assert told["disk"]["checkpoints"] == 4 * 4 * weights  # last, previous, best, one being written
    (pace,) = told["paces"]
    assert pace["basis"] == "2 steps timed here"
    hours = 4 * 8 / pace["images_per_second"] / 3600
    assert pace["hours"] == pytest.approx(hours)
    assert pace["cost"] == pytest.approx(3 * hours)
    assert not (tmp_path / "runs").exists()


@NO_GPU
def test_all_problems_are_told_at_once(
    run_cli: Cli, sd1_folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = edited(sd1_folder, tmp_path / "other", "unet")
    path = other / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace('"epsilon"', '"sample"'))
    arguments = tiny_run_arguments(other, shards)
    wrong = [
        f"data.validation_shards={shards}/none-*.tar", "data.global_batch=10",
        "data.resolution=20", "data.flip=maybe", "trainer.accelerator=gpu", "attention=xformers",
        "optimizer.lr=-1", "checkpoint.best=-1", "method.weights.task=-1", "ema_decay=1",
        "data.max_bad_fraction=abc", "data.workers=x", "samples.every_n_steps=y", "name=null",
    ]  # fmt: skip
    assert run_cli(*planned(arguments, *wrong)) == 2
    lines = capsys.readouterr().err.splitlines()
    expected = [
        "none-*.tar", "data.global_batch=10", "data.resolution=20", "data.flip=maybe", "finds no",
        "attention=xformers", "optimizer.lr=-1", "checkpoint.best=-1", "method.weights=",
        "prediction_type is 'sample'", "ema_decay=1", "data.max_bad_fraction=abc",
        "data.workers=x", "samples.every_n_steps=y", "name=null",
    ]  # fmt: skip
    assert len(lines) == len(expected), lines
    for words in expected:
        assert sum(words in line for line in lines) == 1, (words, lines)
    assert all(line.startswith("bksdm check: ") for line in lines)


def test_what_is_missing_is_a_problem(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = [each for each in tiny_run if "validation_shards" not in each]
    without[1:2] = [f"teacher={tmp_path}/nowhere", "experiment=bk_sdm"]
    (tmp_path / "nowhere").mkdir()
    assert run_cli(*planned(without)) == 2
    error = capsys.readouterr().err
    assert "data.validation_shards= is missing" in error
    assert "expected a diffusers folder or a Hub id" in error


def test_another_runs_name_is_refused(
    run_cli: Cli, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, "name=mine") == 0
    capsys.readouterr()
    assert run_cli(*planned(tiny_run, "name=mine", "device=h100", "format=json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert [pace["hours"] for pace in told["paces"]] == [0, 0, 0]  # no step is left
    assert run_cli(*planned(tiny_run, "name=mine", "student=tiny")) == 2
    error = capsys.readouterr().err
    assert "was started with other settings: student." in error
    assert "is of another plan" in error


def test_a_disk_that_is_too_small(
    run_cli: Cli, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["trainer.max_steps=1000000000", "checkpoint.keep_every_n_steps=1"]
    assert run_cli(*planned(tiny_run, *steps)) == 2
    assert "whose disk has" in capsys.readouterr().err


def test_sd14_on_devices_that_are_not_here(
    run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [
        "check", "teacher=sd14", "student=base", "data.shards=none.tar", "shards=none",
        "data.validation_shards=none.tar", "trainer=gpu", "format=json",
        "trainer.num_nodes=2", "trainer.devices=4", "data.batch_size=16", "attention=xformers",
    ]  # fmt: skip
    assert run_cli(*run, "device=t4") == 2
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert round(told["networks"]["flops"]["useful"] / 1e12, 2) == 2.37
    assert round(told["networks"]["flops"]["computed"] / 1e12, 1) == 3.5
    assert "t4 has no bfloat16" in captured.err
    assert "more than the device's 16.0 GiB" in captured.err
    assert len(captured.err.splitlines()) == 2, captured.err  # xformers is that machine's matter


OTHER_LOGGER = ["logger=wandb", "logger.extra._target_=some_package_that_is_not_here.Logger"]
PLAN = [
    "check", "teacher=sd14", "student=base", "shards=none", "data.shards=none.tar",
    "data.validation_shards=none.tar",
]  # fmt: skip


def test_remote_shards_are_not_read_for_a_plan(
    run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = ["data.shards='s3://b/{0..2}.tar'", "data.validation_shards='s3://b/*.tar'"]
    # On another machine the logger's package may be there.
    assert run_cli(*PLAN, *remote, *OTHER_LOGGER, "device=h100", "trainer=gpu") == 0
    captured = capsys.readouterr()
    assert "VAE and text encoder in the loop (assumed, no shard was read" in captured.out
    assert "with latents (bksdm encode)" in captured.out
    assert "no problems" in captured.out


def test_a_plan_needs_no_shards_here_and_says_what_it_does_not_count(
    run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = [*PLAN, "device=h100", "trainer=gpu", "format=json"]
    assert run_cli(*plan[:4], *plan[6:], "data.batch_size=32") == 0  # none named at all
    alone = json.loads(capsys.readouterr().out)
    assert alone["notes"][:2] == [
        "training: no shards on this machine", "validation: no shards on this machine",
    ]  # fmt: skip
    assert not any("77 on 512" in note for note in alone["notes"])
    assert run_cli(*plan, "trainer.devices=8", "data.batch_size=32", "holds=latents+text") == 0
    eight = json.loads(capsys.readouterr().out)
    assert any("136 images/s a GPU on 8 at 32 images each" in note for note in eight["notes"])
    assert eight["step"] == {"latents": True, "text": True, "basis": "holds=latents+text"}
    assert eight["networks"]["flops"]["computed"] == eight["networks"]["flops"]["useful"]
    assert "with_latents" not in eight
    assert run_cli(*plan, "holds=words", "device=abacus") == 2
    told = capsys.readouterr().err
    assert "holds=words: expected one of pictures" in told
    assert "device=abacus: expected one of v100" in told


@NO_GPU
def test_without_a_gpu_its_memory_is_not_the_cpus(
    run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [each for each in PLAN if not each.startswith("data")]
    assert run_cli(*own, "trainer=gpu") == 2
    captured = capsys.readouterr()
    assert "device=h100 plans for one that is not here" in captured.err
    assert "a step needs" not in captured.err
    assert "the device has" not in captured.out


def test_a_loggers_package_is_looked_for(
    run_cli: Cli, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*planned(tiny_run, *OTHER_LOGGER)) == 2
    captured = capsys.readouterr()
    assert "package some_package_that_is_not_here is not installed" in captured.err
    assert "1 problem;" in captured.out


def test_a_look_leaves_a_damaged_checkpoint_where_it_is(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, "name=mine", "trainer.max_steps=2") == 0
    folder = tmp_path / "runs" / "mine" / "checkpoints"
    (folder / "last.ckpt").write_bytes(b"damaged")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run_cli(*planned(tiny_run, "name=mine", "trainer.max_steps=2"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "previous.ckpt").unlink()
    assert run_cli(*planned(tiny_run, "name=mine", "trainer.max_steps=2")) == 2
    assert "last.ckpt cannot be read" in capsys.readouterr().err
