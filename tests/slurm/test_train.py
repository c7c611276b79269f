"""`scripts/train.sbatch` on two nodes: preemption costs no step, a dead process ends the job."""

import csv
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from bksdm.training.checkpoint import read_checkpoint
from tests.conftest import tiny_run_arguments
from tests.slurm.cluster import Cluster, wait_until
from tests.training.processes import torchrun

pytestmark = pytest.mark.slurm

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.sbatch"
# Copies show how far a run is; `last` is written at its end, or by a signal.
MAX_STEPS, EVERY = 48, 4
TWO_NODES = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0"]
SPEED = re.compile("seconds|per_second|speed|memory|wait|mfu|tflop|left", re.IGNORECASE)


@pytest.fixture
def long_run(sd1_folder: Path, shards: Path) -> list[str]:
    """A run that is long enough to be interrupted, twice."""
    return [
        *tiny_run_arguments(sd1_folder, shards)[1:],
        f"trainer.max_steps={MAX_STEPS}",
        "trainer.validate_every_n_steps=12",
        "checkpoint.every_n_steps=1000",
        f"checkpoint.keep_every_n_steps={EVERY}",
    ]


def submit(cluster: Cluster, folder: Path, *arguments: str) -> str:
    """The script on two nodes; its log is `log` in the folder."""
    path = [slow_scontrol(folder), Path(sys.executable).parent, os.environ["PATH"]]
    return cluster.submit(
        *TWO_NODES,
        f"--output={folder / 'log'}",
        f"--export=ALL,OMP_NUM_THREADS=1,PATH={':'.join(map(str, path))}",
        SCRIPT,
        *arguments,
        cwd=folder,
    )


def slow_scontrol(folder: Path) -> Path:
    """A folder with a scontrol that takes its time, as where thousands of jobs are queued: the
    other processes must not end the job before it has answered.
    """
    tools = folder / "tools"
    tools.mkdir()
    slow = tools / "scontrol"
    slow.write_text(f'#!/bin/sh\nsleep 2\nexec {shutil.which("scontrol")} "$@"\n')
    slow.chmod(0o755)
    return tools


def wait_for_step(cluster: Cluster, job: str, run: Path, step: int) -> None:
    """Wait while the job runs; its log is the message if it does not come so far."""
    copy = run / "checkpoints" / f"step_{step}.ckpt"

    def reached() -> bool:
        state = cluster.job(job)["JobState"]
        assert state in ("PENDING", "CONFIGURING", "RUNNING"), log_of(run)
        return copy.exists()

    wait_until(reached, seconds=90, what=f"{run.name} has done {step} steps")


def log_of(run: Path) -> str:
    return (run.parents[1] / "log").read_text()


def saved_step(run: Path) -> int:
    return int(read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"])


def metrics(run: Path) -> list[dict[str, str]]:
    """What was logged, without what depends on the machine's speed."""
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {name: value for name, value in row.items() if value and not SPEED.search(name)}
            for row in csv.DictReader(file)
        ]


def test_two_preemptions_cost_no_step(
    cluster: Cluster, long_run: list[str], tmp_path: Path
) -> None:
    torchrun(["train", *long_run, "name=whole"], tmp_path)
    run, log = tmp_path / "runs" / "cut", tmp_path / "log"
    job = submit(cluster, tmp_path, *long_run, "name=cut")

    wait_for_step(cluster, job, run, EVERY)
    cluster.run("scancel", "--signal=USR1", job)
    cluster.start_soon(job)
    first = saved_step(run)
    assert EVERY <= first < MAX_STEPS - 2 * EVERY, log.read_text()

    wait_for_step(cluster, job, run, (first // EVERY + 1) * EVERY)
    urgent = cluster.submit(
        "--nodes=2", "--partition=high", f"--output={os.devnull}", "--wrap=srun true"
    )
    cluster.wait_for(urgent, "COMPLETED", seconds=60)
    cluster.start_soon(job)
    second = saved_step(run)
    assert first < second < MAX_STEPS, log.read_text()

    cluster.wait_for(job, "COMPLETED", seconds=120)
    assert cluster.job(job)["Restarts"] == "2"
    text = log.read_text()
    assert re.findall(r"resuming at step (\d+)", text) == [str(first), str(second)], text
    whole = read_checkpoint(tmp_path / "runs" / "whole" / "checkpoints" / "last.ckpt")
    parts = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert parts["global_step"] == whole["global_step"] == MAX_STEPS
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], tensor), name
    assert metrics(run) == metrics(tmp_path / "runs" / "whole")
    exported = [path / "student" / "unet" for path in (run, tmp_path / "runs" / "whole")]
    one, other = (next(unet.glob("*.safetensors")).read_bytes() for unet in exported)
    assert one == other


def test_a_killed_process_ends_the_job(
    cluster: Cluster, long_run: list[str], tmp_path: Path
) -> None:
    job = submit(cluster, tmp_path, *long_run, "name=killed")
    wait_for_step(cluster, job, tmp_path / "runs" / "killed", EVERY)
    os.kill(process_of(job, rank=1), signal.SIGKILL)
    cluster.wait_for(job, "FAILED", seconds=30)
    assert "task 1: Killed" in (tmp_path / "log").read_text()
    assert cluster.job(job)["Restarts"] == "0"


def process_of(job: str, *, rank: int) -> int:
    """The process that trains as this rank of a job."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
    processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    for process in processes:
        trains = b"bksdm" in (process / "cmdline").read_bytes()
        if trains and wanted <= set((process / "environ").read_bytes().split(b"\0")):
            return int(process.name)
    raise AssertionError(f"no process of rank {rank} of job {job}")
