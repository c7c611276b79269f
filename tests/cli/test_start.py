"""One command, several processes on this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import RunFolder


def start(arguments: list[str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bksdm.cli.main", *arguments, "trainer.devices=2"],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begun(process: subprocess.Popen[str], folder: RunFolder) -> None:
    deadline = time.monotonic() + 120
    while not (folder.checkpoints / "step_2.ckpt").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


LONG = [
    "trainer.max_steps=4000", "trainer.validate_every_n_steps=4000", "checkpoint.best=0",
    "checkpoint.every_n_steps=4000", "checkpoint.keep_every_n_steps=2", "data.batch_size=2",
]  # fmt: skip


def test_a_signal_reaches_all_and_saves(tiny_run: list[str], tmp_path: Path) -> None:
    process = start([*tiny_run, *LONG, "name=stopped"], tmp_path)
    folder = RunFolder(tmp_path / "runs" / "stopped")
    begun(process, folder)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, output
    assert read_checkpoint(folder.checkpoint)["global_step"] >= 2
    assert "after SIGINT; the same command goes on" in output


def test_one_that_is_killed_ends_all_promptly(tiny_run: list[str], tmp_path: Path) -> None:
    process = start([*tiny_run, *LONG, "name=killed"], tmp_path)
    begun(process, RunFolder(tmp_path / "runs" / "killed"))
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    children[1].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert "has gone" in output or "was ended by SIGKILL" in output
    assert not any(child.is_running() for child in children)
