"""A run that is interrupted, in any way, ends as one that is not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bksdm.training.checkpoint import load_student, read_checkpoint
from bksdm.training.run import RunFolder, _metrics_until

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


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (2, []),
        (3, ["data.workers=2"]),
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
    before = folder.metrics.read_text().splitlines()
    kept = read_checkpoint(folder.checkpoint)
    assert kept["global_step"] == 4
    arguments = [*tiny_run, "name=other", "checkpoint.keep_every_n_steps=2"]
    assert run_cli(*arguments) == 0
    other = RunFolder(tmp_path / "runs" / "other")
    other.checkpoint.unlink()
    (other.checkpoint.parent / "step_2.ckpt").rename(other.checkpoint)
    assert run_cli(*arguments) == 0
    assert sorted(other.metrics.read_text().splitlines()) == sorted(before)


def test_metrics_survive_a_kill_while_they_are_rewritten(
    run_cli: Cli, tiny_run: list[str], whole: Path
) -> None:
    del run_cli, tiny_run
    folder = RunFolder(whole)
    rows = _metrics_until(folder, 4)
    assert [row["step"] for row in rows]
    folder.metrics.unlink()
    assert _metrics_until(folder, 4) == rows
    folder.metrics.write_text("epoch,step\n0,")
    assert _metrics_until(folder, 4) == rows


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
    assert content["bksdm"]["data"]["index"]


def test_a_finished_run_says_so(
    run_cli: Cli, tiny_run: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamp = RunFolder(whole).checkpoint.stat().st_mtime_ns
    assert run_cli(*tiny_run, "name=whole") == 0
    assert "is finished: 4 steps" in capsys.readouterr().out
    assert RunFolder(whole).checkpoint.stat().st_mtime_ns == stamp


def test_another_configuration_under_the_same_name_is_refused(
    run_cli: Cli, tiny_run: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, "name=whole", "optimizer.lr=1", "student=tiny") == 2
    line = capsys.readouterr().err.strip()
    assert "optimizer.lr" in line
    assert "student.down" in line
    assert "\n" not in line


def test_other_data_is_refused(
    run_cli: Cli,
    tiny_run: list[str],
    sd1_folder: Path,
    tmp_path: Path,
    shards: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del sd1_folder
    own = tmp_path / "own"
    own.mkdir()
    for path in shards.glob("*.tar"):
        (own / path.name).write_bytes(path.read_bytes())
    arguments = [a.replace(str(shards), str(own)) for a in tiny_run] + [
        "name=moved",
        "trainer.max_steps=2",
    ]
    assert run_cli(*arguments) == 0
    (own / "train-00000.tar").write_bytes((own / "validation-00000.tar").read_bytes())
    folder = RunFolder(tmp_path / "runs" / "moved")
    config = folder.config.read_text()
    folder.config.write_text(config.replace("max_steps: 2", "max_steps: 4"))
    assert run_cli(*arguments[:-1], "trainer.max_steps=4") == 2
    assert "of another data" in capsys.readouterr().err


def test_a_corrupt_checkpoint_is_refused_and_kept(
    run_cli: Cli, tiny_run: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = RunFolder(whole).checkpoint
    content = path.read_bytes()[:-1000]
    path.write_bytes(content)
    assert run_cli(*tiny_run, "name=whole") == 2
    assert "cannot be read" in capsys.readouterr().err
    assert path.read_bytes() == content
