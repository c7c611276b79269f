"""Sweeps in this process, and `launcher=slurm` without a Slurm; tests/slurm has the rest."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.cli.main import follow_teacher
from bksdm.errors import InputError

Cli = Callable[..., int]


def run_folders(folder: Path) -> set[str]:
    return {path.name for path in (folder / "runs").glob("*") if (path / "config.yaml").exists()}


def test_a_sweep_runs_its_jobs_and_leaves_no_other_folders(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path
) -> None:
    assert run_cli(*tiny_run, "-m", "student=base,small", "trainer.max_steps=1") == 0
    students = {path.parent.name for path in tmp_path.glob("runs/*/student")}
    assert students == {"tiny-base", "tiny-small"}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    locks = {f".{name}.lock" for name in students}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {*students, *locks, ".sweep"}


def test_jobs_that_would_share_a_run_are_refused_before_anything_starts(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, "-m", "student=base,small", "seed=1,2") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "2 jobs" in line
    assert "runs/tiny-base" in line
    assert "name='seed-${seed}'" in line
    assert not any(tmp_path.iterdir())


def test_a_name_may_follow_what_is_swept(run_cli: Cli, tiny_run: list[str], tmp_path: Path) -> None:
    names = ["-m", "seed=1,2", "name=seed-${seed}", "trainer.max_steps=1"]
    assert run_cli(*tiny_run, *names) == 0
    assert run_folders(tmp_path) == {"seed-1", "seed-2"}


def test_a_sweep_stops_at_the_first_job_that_fails(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["-m", "data.resolution=17,16", "name=at-${data.resolution}", "trainer.max_steps=1"]
    assert run_cli(*tiny_run, *wrong) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "data.resolution=17" in line
    assert run_folders(tmp_path) == set()


def test_a_signal_ends_the_whole_sweep(tiny_run: list[str], tmp_path: Path) -> None:
    long = ["-m", "student=base,small", "trainer.max_steps=1000", "checkpoint.every_n_steps=1000"]
    copies = "checkpoint.keep_every_n_steps=1"
    command = subprocess.Popen(
        [sys.executable, "-m", "bksdm.cli.main", *tiny_run, *long, copies],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        first = tmp_path / "runs" / "tiny-base" / "checkpoints" / "step_1.ckpt"
        end = time.monotonic() + 90
        while not first.exists():
            assert command.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        command.send_signal(signal.SIGTERM)
        assert command.wait(60) == 143
    finally:
        command.kill()
    assert run_folders(tmp_path) == {"tiny-base"}


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ("import sys; sys.modules['hydra_plugins'] = None", ["submitit", "'bksdm[slurm]'"]),
        ("import os; os.environ['PATH'] = ''", ["srun", "slurm cluster"]),
    ],
    ids=["the extra is not installed", "no Slurm here"],
)
def test_what_is_missing_for_slurm_is_one_line(
    prepare: str, words: list[str], tmp_path: Path
) -> None:
    program = f"{prepare}; from bksdm.cli.main import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "train", "launcher=slurm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert all(word in line for word in ["launcher=slurm", *words]), line


def test_sweeps_over_teachers_follow_one_recipe() -> None:
    assert follow_teacher("train", ["teacher=sd14,sd21"])[-1] == "experiment=bk_sdm"
    own = ["teacher=shapes,sd14", "experiment=shapes"]
    assert follow_teacher("train", own) == own
    with pytest.raises(InputError, match="experiment="):
        follow_teacher("train", ["teacher=shapes,sd14"])
