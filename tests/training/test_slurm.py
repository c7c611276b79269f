"""What Slurm is asked, by a scontrol that notes it. tests/slurm asks a real one."""

from pathlib import Path
from signal import Signals

import pytest

from bksdm.training import slurm

RUNNING = "JobId=7 JobState=RUNNING Reason=None PreemptTime=None"
PREEMPTED = "JobId=7 JobState=RUNNING Reason=None PreemptTime=2026-11-20T12:00:00"
CANCELLED = "JobId=7 JobState=CANCELLED Reason=None PreemptTime=None"
LATE = "JobId=7 JobState=COMPLETING Reason=TimeLimit PreemptTime=None"


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scontrol that shows the job of the file `job`, and notes what is asked in `asked`."""
    program = tmp_path / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'if [ "$1" = show ]; then cat {tmp_path}/job; fi\n'
        f'if [ "$1" = requeue ] && [ -e {tmp_path}/refuses ]; then echo disabled >&2; exit 1; fi\n'
    )
    program.chmod(0o755)
    (tmp_path / "job").write_text(RUNNING)
    (tmp_path / "asked").touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return tmp_path


@pytest.mark.parametrize(
    ("received", "job", "requeued"),
    [
        (Signals.SIGUSR1, RUNNING, True),
        (Signals.SIGUSR2, RUNNING, True),
        (Signals.SIGTERM, PREEMPTED, True),
        (Signals.SIGTERM, LATE, True),
        (Signals.SIGTERM, CANCELLED, False),
        (Signals.SIGTERM, RUNNING, False),
        (Signals.SIGINT, PREEMPTED, False),
    ],
)
def test_who_asks_for_another_turn_gets_one(
    scontrol: Path, received: Signals, job: str, requeued: bool
) -> None:
    (scontrol / "job").write_text(job)
    told = slurm.requeue_after(received)
    asked = (scontrol / "asked").read_text().splitlines()
    assert ("requeue 7" in asked) == requeued
    assert (told is not None) == requeued


def test_a_refusal_is_told(scontrol: Path) -> None:
    (scontrol / "refuses").touch()
    told = slurm.requeue_after(Signals.SIGUSR1)
    assert told is not None
    assert "was not requeued (disabled); submit it again" in told


def test_outside_of_slurm_nobody_is_asked(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert slurm.requeue_after(Signals.SIGUSR1) is None
    assert not (scontrol / "asked").read_text()


def test_no_scontrol_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no scontrol answers here" in str(slurm.requeue_after(Signals.SIGUSR2))
