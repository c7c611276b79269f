import json
from pathlib import Path
from typing import Any

import pytest

from bksdm.errors import InputError
from bksdm.evaluation.routing.analysis import analysis_of, read_analysis, write_analysis
from tests.evaluation.routing.world import analysis


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_analysis(tmp_path / "analysis.json", analysis())
    assert read_analysis(tmp_path / "analysis.json") == analysis()
    assert analysis_of(analysis().values()) == analysis()


def changed(**values: Any) -> str:
    return json.dumps({**analysis().values(), **values})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "not there; the command of `bksdm route` again"),
        ("{", "no analysis of this version"),
        ("[]", "TypeError"),
        (changed(format=2), "format 2"),
        (changed(mean=None), "TypeError"),
        (changed(mean=float("nan")), "nan is no number"),
        (changed(sites=["x"]), "not as many shares"),
    ],
)
def test_what_is_no_analysis_gets_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "analysis.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read_analysis(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
