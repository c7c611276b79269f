"""When a run is saved, and what stays."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from bksdm.errors import InputError
from bksdm.training.checkpoint import (
    AtomicCheckpointIO,
    BackgroundCheckpointIO,
    read_checkpoint,
)
from bksdm.training.distill import Distillation
from bksdm.training.folder import RunFolder
from bksdm.training.saving import Checkpoints
from tests.training.metrics import measured
from tests.training.runs import same_weights

Cli = Callable[..., int]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_best_and_the_last_two_stay(run_cli: Cli, tiny_run: list[str], tmp_path: Path) -> None:
    every = ["trainer.validate_every_n_steps=1", "trainer.max_steps=4"]
    assert run_cli(*tiny_run, *every, "name=best", "checkpoint.best=2") == 0
    kept = names(tmp_path / "runs" / "best")
    assert [name for name in kept if not name.startswith("best")] == ["last.ckpt", "previous.ckpt"]
    rows = [dict(row) for row in measured(RunFolder(tmp_path / "runs/best").metrics)]
    losses = {int(row["step"]) + 1: float(row["val/loss"]) for row in rows if "val/loss" in row}
    wanted = sorted(losses, key=lambda step: losses[step])[:2]
    best = sorted(f"best_step_{step}.ckpt" for step in wanted)
    assert [name for name in kept if name.startswith("best")] == best
    assert run_cli(*tiny_run, "name=none", "checkpoint.best=0") == 0
    assert not any(name.startswith("best") for name in names(tmp_path / "runs" / "none"))


def test_written_in_the_background_they_are_the_same(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path
) -> None:
    for name, setting in (("now", "false"), ("later", "true")):
        assert run_cli(*tiny_run, f"name={name}", f"checkpoint.background={setting}") == 0
    first, second = (tmp_path / "runs" / name for name in ("now", "later"))
    assert names(first) == names(second)
    assert same_weights(first, second)
    for folder in (first, second):
        assert read_checkpoint(folder / "checkpoints" / "previous.ckpt")["global_step"] == 3


def test_what_goes_wrong_in_the_background_is_raised(tmp_path: Path) -> None:
    io = BackgroundCheckpointIO()
    io.save_checkpoint({"a": 1}, tmp_path / "no" / "folder" / "last.ckpt")
    with pytest.raises(FileNotFoundError):
        io.teardown()


def test_a_full_disk_costs_no_checkpoint(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, last)
    last.with_suffix(".tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(10**6)}, last)
    assert raised.value.errno == errno.ENOSPC
    assert torch.load(last, weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_ends_a_validation_saves_the_weights_and_not_their_average(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_cli(*tiny_run, "name=whole") == 0

    def gone(*arguments: Any) -> None:
        raise InputError("the validation shard has gone; put it back")

    late = [*tiny_run, "name=broken", "checkpoint.every_n_steps=100"]
    with monkeypatch.context() as patched:
        patched.setattr(Distillation, "validation_step", gone)
        assert run_cli(*late) == 2
    folder = RunFolder(tmp_path / "runs" / "broken")
    assert read_checkpoint(folder.checkpoint)["global_step"] == 2
    assert run_cli(*late) == 0
    assert same_weights(tmp_path / "runs" / "whole", folder.path)
    assert measured(folder.metrics) == measured(RunFolder(tmp_path / "runs/whole").metrics)


@pytest.mark.parametrize(("number", "step"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 2)])
def test_a_signal_costs_no_step_and_no_validation(
    run_cli: Cli,
    tiny_run: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    step: int,
) -> None:
    """Between two validations, and where one is due."""
    assert run_cli(*tiny_run, "name=whole") == 0
    step_end = Checkpoints.on_step_end

    def interrupted(self: Checkpoints, trainer: Any, module: Any) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), number)
        step_end(self, trainer, module)

    late = [*tiny_run, "name=stopped", "checkpoint.every_n_steps=100"]
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "on_step_end", interrupted)
        assert run_cli(*late) == 128 + number
    folder = RunFolder(tmp_path / "runs" / "stopped")
    assert read_checkpoint(folder.checkpoint)["global_step"] == step
    assert run_cli(*late) == 0
    assert same_weights(tmp_path / "runs" / "whole", folder.path)
    assert measured(folder.metrics) == measured(RunFolder(tmp_path / "runs/whole").metrics)


def test_two_jobs_cannot_train_one_run(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with FileLock(runs / ".shared.lock"):
        assert run_cli(*tiny_run, "name=shared") == 2
    assert "is being trained by another process" in capsys.readouterr().err
    assert not (runs / "shared").exists()
    assert run_cli(*tiny_run, "name=shared") == 0


@pytest.mark.parametrize(
    "setting",
    [
        "checkpoint.every_n_steps=0",
        "checkpoint.best=-1",
        "checkpoint.metric=val/fid",
        "checkpoint.background=maybe",
        "checkpoint.every_minutes=0",
    ],
)
def test_bad_settings_are_told(
    run_cli: Cli, tiny_run: list[str], setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, setting) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err
