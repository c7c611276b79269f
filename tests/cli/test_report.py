"""bksdm report a b: bare arguments, and a page."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.cli.main import gathered
from bksdm.errors import InputError
from tests.evaluation.page.world import write_shapes

Cli = Callable[..., int]


def test_bare_arguments_are_the_models() -> None:
    assert gathered("report", ["a", "runs/b c", "out=x.html"]) == [
        "model=['a','runs/b c']",
        "out=x.html",
    ]
    assert gathered("report", ["model=[a,b]"]) == ["model=[a,b]"]
    assert gathered("report", ["it's"]) == ["model=['it\\'s']"]
    assert gathered("train", ["a"]) == ["a"]
    with pytest.raises(InputError, match="a: given beside model="):
        gathered("report", ["a", "model=b"])


def test_a_page_of_runs(run_cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes(tmp_path / "runs" / "lr=1e-4, small" / "evaluation")
    assert run_cli("report", "runs/lr=1e-4, small", "out=pages/it.html", "title=Mine") == 0
    assert "report of 4 models: pages/it.html" in capsys.readouterr().out
    text = (tmp_path / "pages" / "it.html").read_text()
    assert "<h1>Mine</h1>" in text
    assert [each.name for each in (tmp_path / "pages").iterdir()] == ["it.html"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/none"], ["runs/none: no results there", "bksdm evaluate"]),
        (["."], [".: no results there", "bksdm evaluate"]),
        ([], ["model= is missing"]),
        (["model=[]"], ["model=[]"]),
        (["runs/none", "out=."], ["out=.", "folder"]),
        (["runs/none", "outt=x"], ["outt"]),
    ],
)
def test_bad_input_gets_one_line(
    run_cli: Cli, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    assert run_cli("report", *arguments) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words), line


def test_flags_of_hydra_still_work(run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("report", "a", "b", "--cfg", "job") == 0
    out = capsys.readouterr().out
    assert "model:\n- a\n- b\n" in out
