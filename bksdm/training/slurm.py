"""Asking Slurm to run this job again."""

import os
import re
import subprocess
import time
from signal import Signals
from typing import Final

# SIGTERM says neither: scancel sends it, and so do preemption and the time limit.
_ASKS: Final = (Signals.SIGUSR1, Signals.SIGUSR2)
_SECONDS: Final = 30  # for an answer of scontrol


def job_id() -> str | None:
    """The Slurm job that this process is part of; None outside of one."""
    return os.environ.get("SLURM_JOB_ID")


def requeue_or_wait(received: Signals, *, first: bool) -> str | None:
    """For processes that cannot agree any more, or not yet: the first one asks Slurm, and returns
    what to tell. srun ends all when one has ended (--kill-on-bad-exit), so the others give it time.
    """
    if first:
        return requeue_after(received)
    if job_id() is not None:
        time.sleep(2 * _SECONDS)  # it asks twice at most
    return None


def requeue_after(received: Signals) -> str | None:
    """Requeue the job, if the signal means that it should go on later; returns what to tell.

    SIGUSR1 and SIGUSR2 do. SIGTERM does if Slurm says that the job was preempted or has run out of
    time; after scancel it does not. Where Slurm requeues a preempted job itself, asking twice does
    no harm.
    """
    job = job_id()
    if job is None or not (
        received in _ASKS or (received == Signals.SIGTERM and _ended_by_slurm(job))
    ):
        return None
    done = _scontrol("requeue", job)
    if done is None:
        return f"job {job} is not requeued: no scontrol answers here; submit it again, it goes on"
    if done.returncode == 0 or "pending" in done.stderr:
        return f"job {job} is queued again, and goes on from there"
    return (
        f"job {job} was not requeued ({' '.join(done.stderr.split())}); submit it again, it goes on"
    )


def _ended_by_slurm(job: str) -> bool:
    done = _scontrol("show", "job", "--oneliner", job)
    if done is None or done.returncode:
        return False
    preempted = re.search(r"\bPreemptTime=(\S+)", done.stdout)
    state = re.search(r"\bJobState=(\S+)", done.stdout)
    # While its processes are ending, a job out of time is COMPLETING, for that reason.
    return bool(
        (preempted and preempted[1] not in ("None", "N/A", "Unknown"))
        or (state and state[1] in ("PREEMPTED", "TIMEOUT"))
        or re.search(r"\bReason=TimeLimit\b", done.stdout)
    )


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
