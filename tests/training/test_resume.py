"""A run that is interrupted, in any way, ends as one that is not."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bksdm.training.checkpoint import load_student, read_checkpoint
from bksdm.training.folder import RunFolder
from bksdm.training.loggers import metrics_until
from tests.training.metrics import measured
from tests.training.processes import start
from tests.training.runs import interrupted, same_weights

Cli = Callable[..., int]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kill_9_then_the_same_command_gives_the_same_weights(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path
) -> None:
    long = [*tiny_run, "trainer.max_steps=8"]
    process = start([*long, "name=killed"], tmp_path)
    folder = RunFolder(tmp_path / "runs" / "killed")
    wait_for(folder.checkpoint, process)
    process.kill()
    process.communicate()
    assert 0 < read_checkpoint(folder.checkpoint)["global_step"] < 8
    assert run_cli(*long, "name=killed") == 0
    assert run_cli(*long, "name=long") == 0
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
    whole = tmp_path / "runs" / "whole"
    assert run_cli(*arguments, "name=whole") == 0
    resumed = interrupted(whole, whole.with_name("resumed"), step=2)
    assert run_cli(*arguments, "name=resumed", "data.workers=1") == 0
    assert same_weights(whole, resumed.path)
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
    run_cli: Cli, tiny_run: list[str], finished: Path, tmp_path: Path, step: int, changes: list[str]
) -> None:
    folder = interrupted(finished, tmp_path / "runs" / "resumed", step=step)
    assert run_cli(*tiny_run, "name=resumed", *changes) == 0
    assert read_checkpoint(folder.checkpoint)["global_step"] == 4
    if not any("batch_size" in change for change in changes):
        assert same_weights(finished, folder.path)  # bit for bit
    expected, found = (
        load_student(RunFolder(path).checkpoint).state_dict() for path in (finished, folder.path)
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def test_metrics_survive_a_resume(
    run_cli: Cli, tiny_run: list[str], finished: Path, tmp_path: Path
) -> None:
    before = measured(RunFolder(finished).metrics)
    other = interrupted(finished, tmp_path / "runs" / "other", step=2)
    assert run_cli(*tiny_run, "name=other") == 0
    assert measured(other.metrics) == before


def test_metrics_survive_a_kill_while_they_are_rewritten(whole: Path) -> None:
    folder = RunFolder(whole)
    rows = metrics_until(folder.metrics, 4)
    assert [row["step"] for row in rows]
    folder.metrics.unlink()
    assert metrics_until(folder.metrics, 4) == rows
    folder.metrics.write_text("epoch,step\n0,")
    assert metrics_until(folder.metrics, 4) == rows


def test_a_checkpoint_has_plain_types_and_no_teacher(finished: Path) -> None:
    content = read_checkpoint(RunFolder(finished).checkpoint)
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
