"""A run that is interrupted, in any way, ends as one that is not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bksdm.training.checkpoint import load_student, read_checkpoint
from bksdm.training.folder import RunFolder
from bksdm.training.loggers import metrics_until
from bksdm.training.saving import Checkpoints
from tests.training.metrics import assert_same_losses, measured
from tests.training.processes import torchrun

Cli = Callable[..., int]


def same_weights(a: Path, b: Path) -> bool:
    first, second = (read_checkpoint(RunFolder(path).checkpoint) for path in (a, b))
    averages = [content["callbacks"]["Ema"]["shadow_params"] for content in (first, second)]
    return all(
        torch.equal(first["state_dict"][n], second["state_dict"][n]) for n in first["state_dict"]
    ) and all(torch.equal(x, y) for x, y in zip(*averages, strict=True))


@pytest.fixture
def whole(run_cli: Cli, tiny_run: list[str], tmp_path: Path) -> Path:
    """An uninterrupted run of four steps."""
    assert run_cli(*tiny_run, "name=whole") == 0
    return tmp_path / "runs" / "whole"


def start(arguments: list[str], cwd: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "bksdm.cli.main", *arguments],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kill_9_then_the_same_command_gives_the_same_weights(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path
) -> None:
    slow = [*tiny_run, "trainer.max_steps=12", "name=killed"]
    process = start(slow, tmp_path)
    folder = RunFolder(tmp_path / "runs" / "killed")
    wait_for(folder.checkpoint, process)
    process.kill()
    process.communicate()
    assert 0 < read_checkpoint(folder.checkpoint)["global_step"] < 12
    assert run_cli(*slow) == 0
    assert run_cli(*tiny_run, "trainer.max_steps=12", "name=long") == 0
    assert same_weights(tmp_path / "runs" / "long", folder.path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_first(
    tiny_run: list[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    # Early copies tell that training has begun; the regular checkpoint would be far away.
    arguments = [*tiny_run, "trainer.max_steps=4000", "checkpoint.every_n_steps=4000"]
    early = ["checkpoint.keep_every_n_steps=1", "trainer.validate_every_n_steps=4000"]
    process = start([*arguments, *early, "name=stopped"], tmp_path)
    folder = RunFolder(tmp_path / "runs" / "stopped")
    wait_for(folder.checkpoint.with_name("step_2.ckpt"), process)
    assert not folder.checkpoint.exists()
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    step = read_checkpoint(folder.checkpoint)["global_step"]
    assert 2 <= step < 4000
    assert f"at step {step} after {number.name}" in output
    assert not folder.student.exists()


def test_lanes_and_wrapped_epochs_resume(run_cli: Cli, tiny_run: list[str], tmp_path: Path) -> None:
    """48 samples in batches of 20, two lanes: an epoch has three steps, the last one filled up."""
    own = ["data.lanes=2", "data.remainder=wrap", "data.global_batch=20", "data.window=1"]
    arguments = [*tiny_run, *own, "checkpoint.keep_every_n_steps=2", "trainer.max_steps=5"]
    assert run_cli(*arguments, "name=whole") == 0
    assert run_cli(*arguments, "name=resumed") == 0
    checkpoint = RunFolder(tmp_path / "runs" / "resumed").checkpoint
    (checkpoint.parent / "step_2.ckpt").rename(checkpoint)
    assert run_cli(*arguments, "name=resumed", "data.workers=1") == 0
    assert same_weights(tmp_path / "runs" / "whole", tmp_path / "runs" / "resumed")
    assert run_cli(*arguments, "name=resumed", "data.lanes=4") == 2


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (2, []),
        (3, ["data.workers=2"]),
        (1, ["data.workers=1", "data.start_method=forkserver"]),
        (2, ["data.cache.prefetch=0"]),
        (1, ["data.batch_size=8"]),
        (3, ["data.batch_size=8"]),
        (1, ["data.batch_size=2"]),
    ],
)
def test_resume_at_a_step_with_other_workers_and_micro_batches(
    run_cli: Cli, tiny_run: list[str], whole: Path, tmp_path: Path, step: int, changes: list[str]
) -> None:
    arguments = [*tiny_run, "name=resumed", "checkpoint.keep_every_n_steps=1"]
    assert run_cli(*arguments) == 0
    folder = RunFolder(tmp_path / "runs" / "resumed")
    folder.checkpoint.unlink()
    (folder.checkpoint.parent / f"step_{step}.ckpt").rename(folder.checkpoint)
    assert run_cli(*arguments, *changes) == 0
    assert read_checkpoint(folder.checkpoint)["global_step"] == 4
    if not any("batch_size" in change for change in changes):
        assert same_weights(whole, folder.path)  # bit for bit
    expected, found = (
        load_student(RunFolder(path).checkpoint).state_dict() for path in (whole, folder.path)
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def test_metrics_survive_a_resume(
    run_cli: Cli, tiny_run: list[str], whole: Path, tmp_path: Path
) -> None:
    folder = RunFolder(whole)
    before = measured(folder.metrics)
    kept = read_checkpoint(folder.checkpoint)
    assert kept["global_step"] == 4
    arguments = [*tiny_run, "name=other", "checkpoint.keep_every_n_steps=2"]
    assert run_cli(*arguments) == 0
    other = RunFolder(tmp_path / "runs" / "other")
    other.checkpoint.unlink()
    (other.checkpoint.parent / "step_2.ckpt").rename(other.checkpoint)
    assert run_cli(*arguments) == 0
    assert measured(other.metrics) == before


def test_metrics_survive_a_kill_while_they_are_rewritten(
    run_cli: Cli, tiny_run: list[str], whole: Path
) -> None:
    del run_cli, tiny_run
    folder = RunFolder(whole)
    rows = metrics_until(folder.metrics, 4)
    assert [row["step"] for row in rows]
    folder.metrics.unlink()
    assert metrics_until(folder.metrics, 4) == rows
    folder.metrics.write_text("epoch,step\n0,")
    assert metrics_until(folder.metrics, 4) == rows


def test_a_checkpoint_has_plain_types_and_no_teacher(whole: Path) -> None:
    content = read_checkpoint(RunFolder(whole).checkpoint)
    assert all(name.startswith("student.") for name in content["state_dict"])
    student = sum(tensor.numel() for tensor in content["state_dict"].values())

    def tensors(value: object) -> int:
        if isinstance(value, torch.Tensor):
            return value.numel()
        parts = (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, list | tuple)
            else []
        )
        return sum(map(tensors, parts))

    # student, its average, two Adam moments; step counts are single numbers
    assert tensors(content) <= 4 * student + 1000
    assert content["bksdm"]["teacher"]["path"]
    assert content["bksdm"]["data"]["training"]["hash"]


def test_a_finished_run_says_so(
    run_cli: Cli, tiny_run: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamp = RunFolder(whole).checkpoint.stat().st_mtime_ns
    assert run_cli(*tiny_run, "name=whole") == 0
    assert "is finished: 4 steps" in capsys.readouterr().out
    assert RunFolder(whole).checkpoint.stat().st_mtime_ns == stamp


def test_a_finished_run_can_be_made_longer(
    run_cli: Cli, tiny_run: list[str], whole: Path, tmp_path: Path
) -> None:
    longer = [*tiny_run, "trainer.max_steps=6"]
    student = RunFolder(whole).student / "model_index.json"
    before = student.stat().st_mtime_ns
    assert run_cli(*longer, "name=whole") == 0
    assert student.stat().st_mtime_ns > before
    assert run_cli(*longer, "name=six") == 0
    assert same_weights(whole, tmp_path / "runs" / "six")
    assert run_cli(*longer, "name=whole", "optimizer.schedule=cosine") == 2


def test_another_configuration_under_the_same_name_is_refused(
    run_cli: Cli, tiny_run: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, "name=whole", "optimizer.lr=1", "student=tiny") == 2
    line = capsys.readouterr().err.strip()
    assert "optimizer.lr" in line
    assert "student.down" in line
    assert "\n" not in line


@pytest.fixture
def moved(run_cli: Cli, tiny_run: list[str], tmp_path: Path, shards: Path) -> list[str]:
    """Arguments of a run over its own copy of the shards, two steps of which are done."""
    shutil.copytree(shards, tmp_path / "own")
    arguments = [argument.replace(str(shards), str(tmp_path / "own")) for argument in tiny_run]
    assert run_cli(*arguments, "name=moved", "checkpoint.keep_every_n_steps=2") == 0
    folder = RunFolder(tmp_path / "runs" / "moved")
    (folder.checkpoint.parent / "step_2.ckpt").rename(folder.checkpoint)
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


def test_data_may_move(run_cli: Cli, moved: list[str], whole: Path, tmp_path: Path) -> None:
    (tmp_path / "own").rename(tmp_path / "elsewhere")
    changed = [argument.replace("/own/", "/elsewhere/") for argument in moved]
    assert run_cli(*changed) == 0
    assert same_weights(whole, tmp_path / "runs" / "moved")


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


def assert_close(first: Path, second: Path) -> None:
    one, other = (load_student(RunFolder(path).checkpoint).state_dict() for path in (first, second))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_are_one_and_either_goes_on_for_the_other(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, strategy: str
) -> None:
    """From the start on two; the second half on two; the second half on one. With a validation
    and a grid between the steps, which see the average.
    """
    one = [*tiny_run, "optimizer.lr=1e-3", "checkpoint.keep_every_n_steps=2"]
    one += ["samples.every_n_steps=2", "samples.sampling.steps=1"]
    one += ["samples.prompts=[a red circle,a cross,a square]", "trainer.validate_every_n_steps=1"]
    two = [*one, "data.batch_size=2", f"trainer.strategy={strategy}"]
    runs = tmp_path / "runs"
    assert run_cli(*one, "name=whole") == 0
    torchrun([*two, "name=two"], tmp_path)
    assert_same_losses(runs / "whole", runs / "two", rel=3e-5)
    assert (runs / "two" / "samples" / "step_000004.png").exists()
    for before, after in (("whole", "two-on"), ("two", "one-on")):
        checkpoints = Path(shutil.copytree(runs / before, runs / after)) / "checkpoints"
        (checkpoints / "step_2.ckpt").replace(checkpoints / "last.ckpt")
    assert run_cli(*one, "name=one-on") == 0
    assert_same_losses(runs / "whole", runs / "one-on", rel=3e-5)
    if strategy == "ddp":  # for the other it is no other case
        torchrun([*two, "name=two-on", "data.batch_size=4"], tmp_path)
        assert_same_losses(runs / "whole", runs / "two-on", rel=3e-5)


def test_processes_that_nobody_started_are_started(
    tiny_run: list[str], whole: Path, tmp_path: Path
) -> None:
    two = ["name=two", "trainer.devices=2", "data.batch_size=2"]
    output, _ = start([*tiny_run, *two], tmp_path).communicate(timeout=120)
    assert "processes x batch_size x accumulation: 2 x 2 x 2" in output, output
    assert_close(whole, tmp_path / "runs" / "two")


def test_other_nodes_are_not(
    run_cli: Cli, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, "name=two", "trainer.num_nodes=2") == 2
    assert "several nodes need torchrun or srun" in capsys.readouterr().err


def damage(path: Path) -> bytes:
    """Turn over one byte in the middle of a checkpoint's tensors."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    return bytes(content)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    run_cli: Cli, tiny_run: list[str], whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(whole)
    expected = load_student(folder.checkpoint).state_dict()
    content = damage(folder.checkpoint)
    assert run_cli(*tiny_run, "name=whole") == 0
    assert "last.ckpt is damaged; kept as last.damaged, going on from" in caplog.text
    assert folder.checkpoint.with_suffix(".damaged").read_bytes() == content
    assert read_checkpoint(folder.checkpoint)["global_step"] == 4
    found = load_student(folder.checkpoint).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_two_damaged_checkpoints_are_refused_and_kept(
    run_cli: Cli, tiny_run: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = RunFolder(whole).checkpoint
    content = damage(path.with_name("previous.ckpt"))
    path.unlink()
    assert run_cli(*tiny_run, "name=whole") == 2
    assert "cannot be read" in capsys.readouterr().err
    assert path.with_name("previous.ckpt").read_bytes() == content
