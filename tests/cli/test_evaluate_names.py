"""Which models the names of `bksdm evaluate` stand for."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., int]


def test_two_models_of_one_name_are_refused(
    run_cli: Cli, sd1_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs/a"
    shutil.copytree(sd1_folder, run / "student")
    shutil.copytree(sd1_folder, tmp_path / "same")
    source = f"_target_: bksdm.models.source.TeacherSource, name: same, path: {sd1_folder}"
    (run / "config.yaml").write_text(
        f"teacher: {{{source}}}\n"
        "student: {_target_: bksdm.surgery.plan.BlockPlan, down: [[0, 1]], mid: true}\n"
    )
    assert run_cli("evaluate", "model=[runs/a,same]") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "two models are called same" in line
