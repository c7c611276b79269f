"""A run whose shards are others when it goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import RunFolder
from bksdm.training.saving import Checkpoints
from tests.training.runs import interrupted, same_weights

Cli = Callable[..., int]


@pytest.fixture
def moved(tiny_run: list[str], finished: Path, tmp_path: Path, shards: Path) -> list[str]:
    """Arguments of a run over its own copy of the shards, two steps of which are done."""
    shutil.copytree(shards, tmp_path / "own")
    arguments = [argument.replace(str(shards), str(tmp_path / "own")) for argument in tiny_run]
    interrupted(finished, tmp_path / "runs" / "moved", step=2)
    return [*arguments, "name=moved"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("replace", "training shards: 1 shard changed (train-00000.tar)"),
        ("remove", "training shards: 1 shard missing (train-00001.tar)"),
        ("add", "training shards: 1 shard new (train-00003.tar)"),
        ("validation", "validation shards: 1 shard changed (validation-00000.tar)"),
    ],
)
def test_other_data_is_refused_and_told_unless_accepted(
    run_cli: Cli, moved: list[str], tmp_path: Path, change: str, words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    own = tmp_path / "own"
    if change == "replace":
        shutil.copy(own / "validation-00000.tar", own / "train-00000.tar")
    elif change == "remove":
        (own / "train-00001.tar").unlink()
    elif change == "add":
        shutil.copy(own / "train-00000.tar", own / "train-00003.tar")
    else:
        shutil.copy(own / "train-00000.tar", own / "validation-00000.tar")
    assert run_cli(*moved) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in line
    assert "data.accept_changed=true" in line
    assert run_cli(*moved, "data.accept_changed=true") == 0
    checkpoint = RunFolder(tmp_path / "runs" / "moved").checkpoint
    assert read_checkpoint(checkpoint)["global_step"] == 4


def test_data_may_move(run_cli: Cli, moved: list[str], finished: Path, tmp_path: Path) -> None:
    (tmp_path / "own").rename(tmp_path / "elsewhere")
    changed = [argument.replace("/own/", "/elsewhere/") for argument in moved]
    assert run_cli(*changed) == 0
    assert same_weights(finished, tmp_path / "runs" / "moved")


def test_a_shard_that_disappears_ends_the_run_and_loses_no_step(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, shards: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("bksdm.data.limits.OPEN_SHARDS", 1)
    shutil.copytree(shards, tmp_path / "own")
    arguments = [argument.replace(str(shards), str(tmp_path / "own")) for argument in tiny_run]
    late = ["name=gone", "checkpoint.every_n_steps=1000", "trainer.validate_every_n_steps=100"]
    late += ["data.window=1"]
    kept = {path: path.read_bytes() for path in (tmp_path / "own").glob("train-*.tar")}
    step_end = Checkpoints.on_step_end

    def vanish(self: Checkpoints, trainer: Any, module: Any) -> None:
        step_end(self, trainer, module)
        if trainer.global_step == 2:
            for path in kept:
                path.unlink(missing_ok=True)

    monkeypatch.setattr(Checkpoints, "on_step_end", vanish)
    assert run_cli(*arguments, *late) == 2
    assert ".tar has gone; put it back" in capsys.readouterr().err
    checkpoint = RunFolder(tmp_path / "runs" / "gone").checkpoint
    assert 2 <= read_checkpoint(checkpoint)["global_step"] < 4
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for path, data in kept.items():
        path.write_bytes(data)
    assert run_cli(*arguments, *late) == 0
    assert run_cli(*tiny_run, "name=whole", "data.window=1") == 0
    assert same_weights(tmp_path / "runs" / "whole", tmp_path / "runs" / "gone")
