"""`bksdm route` looks at what it has done, and `bksdm report` shows it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.evaluation.routing.analysis import read_analysis

Cli = Callable[..., int]


@pytest.fixture
def arguments(tiny_run: list[str]) -> list[str]:
    kept = [each for each in tiny_run[1:] if not each.startswith(("samples.", "export."))]
    return [
        *kept,
        "name=way",
        "experiment=route_shapes",
        "encoder=teacher_text",
        "method.experts=2",
        "method.target=0.7",
        "trainer.max_steps=2",
        "checkpoint.keep_every_n_steps=1",
    ]


def test_a_route_is_analysed_and_reported(
    run_cli: Cli, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path("runs/way")
    assert run_cli("route", *arguments, "analysis=false") == 0
    assert not (run / "analysis.json").exists()
    assert run_cli("report", "runs/way") == 2
    assert "runs/way/analysis.json: not there" in capsys.readouterr().err
    assert run_cli("route", *arguments) == 0  # trains nothing more
    out = capsys.readouterr().out
    assert "analysis: runs/way/analysis.json" in out
    found, routing = (
        read_analysis(run / "analysis.json"),
        json.loads((run / "routing.json").read_text()),
    )
    assert [each.prompts for each in found.experts] == [
        each["samples"] for each in routing["experts"]
    ]
    assert [(each.earlier, each.later) for each in found.drift] == [(1, 2)]
    assert found.hardness.correlation is None  # of eight prompts
    assert 1 < len(found.hardness.hardest) <= 8
    assert {each.kind for each in found.kinds} >= {"one object", "two objects"}
    assert run_cli("route", *arguments) == 0
    assert "is finished" in capsys.readouterr().out
    assert run_cli("report", "runs/way", "out=it.html") == 0
    assert "report of 1 router: it.html" in capsys.readouterr().out
