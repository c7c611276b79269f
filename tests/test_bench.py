"""The benchmarks run; what they print is in docs/performance.md and EXPERIMENTS.md."""

import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from bench import data, step
from bench.cases import CASES
from bksdm.cli.main import main
from bksdm.training.speed import SpeedSettings

Table = Callable[..., tuple[dict[str, list[str]], str]]


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small embedded world in ./data/shapes."""
    monkeypatch.chdir(tmp_path)
    small = ["source.train_samples=64", "validation_samples=32", "samples_per_shard=64"]
    monkeypatch.setattr(sys, "argv", ["bksdm", "prepare", "workers=1", *small])
    assert main() == 0


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Table:
    """`make bench` on two samples a step: the printed rows by their names, and all of it."""
    monkeypatch.setitem(step.WORLDS, "shapes", replace(step.WORLDS["shapes"], batch=2))

    def run(*arguments: str) -> tuple[dict[str, list[str]], str]:
        monkeypatch.setattr(sys, "argv", ["step", "--quick", "--device", "cpu", *arguments])
        step.main()
        text = capsys.readouterr().out
        cells = [re.split(r"  +", line) for line in text.splitlines() if " / " in line]
        return {first: rest for first, *rest in cells}, text

    return run


def test_the_step_is_compared_with_the_bare_loop_and_the_reference_recipe(bench: Table) -> None:
    rows, _ = bench("bare loop", "reference")
    assert [rest[-1] for rest in rows.values()][1:] == ["0.97", "2"]
    for name in ("our step / bare loop, same maths", "our step / reference recipe"):
        ours, other, ratio, _ = rows[name]
        assert min(float(ours), float(other)) > 0
        assert re.fullmatch(r"\d+\.\d\d \(\d+\.\d\d - \d+\.\d\d\)", ratio)


def test_what_cannot_run_here_is_a_dash_with_its_reason(bench: Table) -> None:
    rows, text = bench("attention=xformers", "bf16 all-reduce", "attention=math")
    assert rows["attention=xformers / attention=auto"] == ["-", "-", "-"]
    assert "- attention=xformers: attention=xformers needs" in text
    assert "- bf16 all-reduce: needs 2 processes" in text
    assert "-" not in rows["attention=math / attention=auto"]


def test_a_side_that_takes_too_long_is_a_dash(bench: Table) -> None:
    rows, text = bench("--patience", "1", "compile")
    assert rows["compile / eager"] == ["-", "-", "-"]
    assert "- compile: its first block takes more than 1 s (--patience)" in text


def test_an_unknown_case_is_refused(bench: Table, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench("warp drive")
    assert "warp drive" in capsys.readouterr().err


def test_each_case_changes_one_thing_in_every_world() -> None:
    for world in step.WORLDS.values():
        default = {**vars(world.step), **vars(world.step.speed)}
        for case in CASES:
            this, against = ({**default, **side.changes} for side in (case.this, case.against))
            assert this.keys() == default.keys(), case.name
            assert sum(this[name] != against[name] for name in default) == 1, case.name


def test_switches_of_a_run_are_all_compared() -> None:
    compared = {
        name for case in CASES for side in (case.this, case.against) for name in side.changes
    }
    assert compared >= {each.name for each in fields(SpeedSettings)}


@pytest.mark.usefixtures("shapes")
def test_first_batches_are_timed_at_both_ends(tmp_path: Path) -> None:
    assert "at step 1,000,000" in data.resuming(tmp_path, turns=2)
