import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bksdm.errors import InputError
from bksdm.evaluation.comparison import compare
from bksdm.evaluation.results import (
    ITEMS,
    Against,
    ModelResult,
    read_items,
    read_results,
    with_earlier,
    write_items,
    write_results,
)
from bksdm.evaluation.score import Better, Items, Score

HOSTILE = (
    "a,b",
    'say "cheese"',
    "two\nlines",
    "",
    " space ",
    "naïve 猫",
    "=1+1",
    "#x",
)


def score(name: str, shift: float = 0.0) -> Score:
    values = tuple(shift + 0.1 * i for i in range(len(HOSTILE)))
    return Score(
        name=name,
        value=sum(values) / len(values),
        better=Better.LOWER,
        n=len(values),
        low=0.1,
        high=1 / 3,
        interval="bootstrap",
        items=Items(HOSTILE, values),
        percent=True,
        details={"by timestep": [[50.0, 0.25]], "weights": {"sha256": "ab", "none": None}},
    )


def result() -> ModelResult:
    ours, theirs = score("loss"), score("loss", 0.5)
    compared = compare(ours, theirs)
    assert compared is not None
    whole = Score(name="FID", value=12.5, better=Better.LOWER, n=3)
    return ModelResult(
        name="runs/ä",
        weights="abc",
        protocol={"name": "p", "settings": {"sampling": {"steps": 2, "size": None}}},
        scores=(ours, whole),
        against=(
            Against(
                name="shapes",
                weights="def",
                deciding="loss",
                comparisons=(compared, replace(compared, score="other", ratio=None)),
                not_numbers={"third": 2},
            ),
        ),
        cost={"unet": {"total": {"macs": 10**12}}},
        speed=None,
        unet={"block_out_channels": [8, 16]},
        plan={"down": [[0], [0, 1]]},
        environment={"versions": {"torch": "2"}, "commit": None},
        images="images",
        suffix=".jpg",
        curves={"train/loss": [[0.0, 1.0], [1.0, 0.5]]},
    )


def bare(one: ModelResult) -> ModelResult:
    return replace(one, scores=tuple(replace(each, items=None) for each in one.scores))


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    write_results([result(), result()], path)
    assert read_results(path) == [bare(result())] * 2
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]
    verdict = read_results(path)[0].against[0].verdict
    assert verdict is not None
    assert verdict.sentence == "not distinguishable with n = 8"


def test_what_is_no_number_is_null_in_the_file_and_nan_when_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    nothing = Score(
        name="x", value=math.nan, better=Better.HIGHER, n=0, low=math.nan, details={"y": math.inf}
    )
    write_results([replace(result(), scores=(nothing,))], path)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(path.read_text(), parse_constant=refuse)
    (found,) = read_results(path)[0].scores
    assert math.isnan(found.value)
    assert found.low is None
    assert found.details == {"y": None}


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results([result()], path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(InputError, match="format 99"):
        read_results(path)


DAMAGED = {
    "empty": "",
    "half": '{"format": 1, "models": [{"name": "x"',
    "a list": "[]",
    "a word": '"format"',
    "no models": '{"format": 1}',
    "null": '{"format": 1, "models": null}',
    "a model is a word": '{"format": 1, "models": ["x"]}',
    "a model lacks parts": '{"format": 1, "models": [{"name": "x"}]}',
    "a model has others": '{"format": 1, "models": [{"scores": [], "against": [], "colour": 1}]}',
    "a verdict of its own": None,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "results.json"
    write_results([result()], path)
    text = DAMAGED[damage]
    path.write_text(path.read_text().replace('"better"', '"splendid"') if text is None else text)
    with pytest.raises(InputError, match="evaluate again") as refused:
        read_results(path)
    assert str(path) in str(refused.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="evaluate again"):
        read_results(path)


def test_a_missing_file_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bksdm evaluate"):
        read_results(tmp_path / "results.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results([result()], path)
    before = path.read_text()
    with pytest.raises(TypeError):
        write_results([replace(result(), cost={"x": object()})], path)
    assert path.read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_items_come_back_with_any_id(tmp_path: Path) -> None:
    scores = [
        score('lo,ss\n"x"'),
        score("other", 1 / 3),
        Score(name="FID", value=1.0, better=Better.LOWER, n=1),
    ]
    write_items(scores, tmp_path)
    assert read_items(tmp_path) == {each.name: each.items for each in scores[:2]}
    (tmp_path / ITEMS).unlink()
    assert read_items(tmp_path) == {}


def test_items_keep_every_bit_and_nan(tmp_path: Path) -> None:
    values = (1e-300, 0.1 + 0.2, -0.0, 12345678.123456789, math.nan, math.inf)
    items = Items(tuple("abcdef"), values)
    write_items([replace(score("x"), items=items)], tmp_path)
    assert repr(read_items(tmp_path)["x"].values) == repr(values)


def test_results_hold_no_items(tmp_path: Path) -> None:
    write_results([result()], tmp_path / "results.json")
    assert "cheese" not in (tmp_path / "results.json").read_text()
    assert "cheese" in json.dumps(asdict(result()))


@pytest.mark.parametrize(
    "text", ["score,item,value\nx,a", "score,item,value\nx,a,b\n", "a,b\n1,2\n"]
)
def test_damaged_items_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / ITEMS).write_text(text)
    with pytest.raises(InputError, match="evaluate again"):
        read_items(tmp_path)


def test_no_home_folder_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    made = ModelResult(
        name="/home/ada/models/a",
        weights="w",
        protocol={"prompts": "/home/ada.txt"},
        scores=(),
        environment={"command": "bksdm evaluate model=/home/ada/models/a out=/data/home/ada"},
    )
    write_results([made], tmp_path / "results.json")
    [found] = read_results(tmp_path / "results.json")
    assert found.name == "~/models/a"
    assert found.protocol["prompts"] == "/home/ada.txt"
    command = "bksdm evaluate model=~/models/a out=/data/home/ada"
    assert found.environment["command"] == command


def test_what_an_earlier_evaluation_measured_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    timed = replace(result(), speed={"unet_calls": []}, against=(against("a"), against("b")))
    write_results([timed], path)
    again = with_earlier(replace(result(), speed=None, against=(against("b"),)), path)
    assert again.speed == {"unet_calls": []}
    assert [each.weights for each in again.against] == ["b", "a"]
    other = replace(result(), weights="other", speed=None, against=())
    assert with_earlier(other, path) == other
    path.write_text("{}")
    assert with_earlier(other, path) == other


def against(weights: str) -> Against:
    return Against(name=weights, weights=weights, deciding="FID", comparisons=())
