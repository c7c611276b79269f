"""`launcher=slurm`: jobs by submitit; results, errors and exit codes come back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import tiny_run_arguments
from tests.slurm.cluster import Cluster, wait_until

pytestmark = pytest.mark.slurm

SLURM = ["launcher=slurm", "launcher.gpus=0", "launcher.processes=1", "launcher.cpus=1"]


def bksdm(cluster: Cluster, cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command, as typed on a login node."""
    return subprocess.Popen(
        [sys.executable, "-m", "bksdm.cli.main", *arguments],
        cwd=cwd,
        env=cluster.environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def logs(cwd: Path) -> str:
    return "\n".join(path.read_text() for path in cwd.glob("runs/.submitit/*/*_log.out"))


def test_a_sweep_is_an_array_whose_error_comes_back_as_one_line(
    cluster: Cluster, sd1_folder: Path, shards: Path, tmp_path: Path
) -> None:
    run = tiny_run_arguments(sd1_folder, shards)
    sweep = ["-m", *SLURM, "student=base,small", "trainer.max_steps=2"]
    command = bksdm(cluster, tmp_path, *run, *sweep)
    told, said = command.communicate(timeout=150)
    assert command.returncode == 0, said + logs(tmp_path)
    assert "2 jobs for Slurm; logs: runs/.submitit/JOB/" in told
    students = {path.parent.name for path in tmp_path.glob("runs/*/student")}
    assert students == {"tiny-base", "tiny-small"}
    assert "_0" in "".join(os.listdir(tmp_path / "runs" / ".submitit"))
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    assert "launcher" not in (tmp_path / "runs" / "tiny-base" / "config.yaml").read_text()


def test_an_input_error_comes_back_and_fails_the_job(cluster: Cluster, tmp_path: Path) -> None:
    command = bksdm(cluster, tmp_path, "train", *SLURM, "launcher.nodes=2", "data.shards=/no.tar")
    _, said = command.communicate(timeout=120)
    assert command.returncode == 2, said
    [line] = [text for text in said.splitlines() if text.startswith("bksdm")]
    assert all(word in line for word in ("/no.tar", "bksdm prepare", "_0_log.out")), line
    assert "Traceback" not in said + logs(tmp_path)
    assert "bksdm train: " in logs(tmp_path)
    [job] = [path.name for path in (tmp_path / "runs" / ".submitit").glob("[0-9]*")]
    cluster.wait_for(job, "FAILED", seconds=20)


def test_a_refusal_of_slurm_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    command = bksdm(cluster, tmp_path, "train", *SLURM, "launcher.partition=nowhere")
    _, said = command.communicate(timeout=60)
    assert command.returncode == 2
    [line] = [text for text in said.splitlines() if text.startswith("bksdm")]
    assert all(word in line for word in ("launcher=slurm", "invalid partition")), line


def test_a_preempted_job_of_the_launcher_goes_on(
    cluster: Cluster, sd1_folder: Path, shards: Path, tmp_path: Path
) -> None:
    run = tiny_run_arguments(sd1_folder, shards)
    own = [
        *("name=cut", "launcher.nodes=2", "trainer.max_steps=48"),
        *("checkpoint.every_n_steps=1000", "checkpoint.keep_every_n_steps=4"),
        "trainer.validate_every_n_steps=12",
    ]
    command = bksdm(cluster, tmp_path, *run, *SLURM, *own)
    checkpoints = tmp_path / "runs" / "cut" / "checkpoints"
    wait_until((checkpoints / "step_4.ckpt").exists, seconds=90, what="4 steps are done")
    [job] = [path.name for path in (tmp_path / "runs" / ".submitit").glob("[0-9]*")]
    cluster.run("scancel", "--signal=USR2", job)  # what submitit asks Slurm for
    cluster.start_soon(job)
    assert (checkpoints / "last.ckpt").exists()
    _, said = command.communicate(timeout=150)
    assert command.returncode == 0, said + logs(tmp_path)
    assert logs(tmp_path).count("resuming at step") == 1
    assert (tmp_path / "runs" / "cut" / "student").is_dir()
