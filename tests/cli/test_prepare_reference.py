"""`bksdm prepare reference=...` on a made-up copy of COCO."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.evaluation.coco.official import PARTS
from bksdm.evaluation.coco.photographs import InFolder
from bksdm.evaluation.coco.provenance import sha256_of
from bksdm.evaluation.prompts import CocoPrompts
from bksdm.evaluation.reference import read_reference
from tests.evaluation.coco.tiny_coco import TinyCoco, file_name, make_coco

Cli = Callable[..., int]
OUT = Path("data/coco/coco30k_bksdm")
# The protocol with a network that every machine has.
NETWORK = (
    "reference.protocol.measures.inception.network._target_="
    "tests.evaluation.coco.tiny_coco.MeanColor"
)
SETTINGS = ("reference=coco30k_bksdm", NETWORK, "workers=1")
COUNT = "reference.protocol.prompts.count"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCoco:
    return make_coco(tmp_path / "coco")


@pytest.fixture
def official(tiny: TinyCoco, monkeypatch: pytest.MonkeyPatch) -> TinyCoco:
    """The made-up copy is all of val2014."""
    monkeypatch.setitem(PARTS, "val2014", tiny.part)
    return tiny


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_complete_copy_makes_prompts_references_and_provenance(
    run_cli: Cli, official: TinyCoco, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*official.arguments, *SETTINGS, f"{COUNT}=4") == 0
    told = capsys.readouterr().out
    assert "val2014: 10 pictures, 20 captions\n" in told
    assert "prompts: 4, pictures drawn with numpy default_rng(0)" in told
    assert "not the list that published scores used (BK-SDM's metadata.csv)" in told
    assert "kept with jpeg_quality 75, size 256, resample bicubic, jpeg_first True" in told
    prompts = CocoPrompts(path=str(OUT / "prompts.csv"), count=4, seed=1234).read()
    assert [prompt.seed for prompt in prompts] == [1234, 1235, 1236, 1237]
    with (OUT / "prompts.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"{prompt.id}.jpg" for prompt in prompts]
    reference = read_reference(OUT / "inception.safetensors")
    assert reference.features.n == 10
    assert reference.about.source == "10 photographs of COCO val2014"
    made = json.loads((OUT / "provenance.json").read_text())
    assert (made["finished"], made["partial"]) == (True, False)
    assert made["annotations"]["sha256"] == sha256_of(official.annotations)
    assert made["references"] == {"inception.safetensors": sha256_of(OUT / "inception.safetensors")}
    assert {path.name for path in OUT.iterdir()} == {
        "prompts.csv",
        "inception.safetensors",
        "provenance.json",
    }


def test_a_finished_set_is_not_made_again(
    run_cli: Cli,
    official: TinyCoco,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [*official.arguments, *SETTINGS, f"{COUNT}=4"]
    assert run_cli(*arguments) == 0
    before = contents(OUT)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(InFolder, "read", lambda *_: pytest.fail("a photograph was read"))
        assert run_cli(*arguments) == 0
    assert "is complete" in capsys.readouterr().out
    assert contents(OUT) == before
    (OUT / "inception.safetensors").unlink()
    assert run_cli(*arguments) == 0
    assert contents(OUT) == before


def test_a_set_is_never_mixed_with_another(
    run_cli: Cli, official: TinyCoco, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*official.arguments, *SETTINGS]
    assert run_cli(*arguments, f"{COUNT}=4") == 0
    capsys.readouterr()
    assert run_cli(*arguments, f"{COUNT}=4", "reference.protocol.keeping.size=128") == 2
    assert "made otherwise (keeping.size differ" in refused(capsys)
    assert run_cli(*arguments, f"{COUNT}=5") == 2
    assert "prompts.count" in refused(capsys)
    assert run_cli(*arguments, f"{COUNT}=4", "out=elsewhere") == 0
    assert Path("elsewhere/inception.safetensors").exists()


def test_photographs_that_have_changed_are_noticed(
    run_cli: Cli, official: TinyCoco, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*official.arguments, *SETTINGS, f"{COUNT}=4"]
    assert run_cli(*arguments) == 0
    (OUT / "inception.safetensors").unlink()
    (official.images / file_name(7)).write_bytes((official.images / file_name(14)).read_bytes())
    capsys.readouterr()
    assert run_cli(*arguments) == 2
    assert "the photographs have changed" in refused(capsys)


def test_a_copy_that_is_not_complete_is_refused_and_leaves_nothing(
    run_cli: Cli, tiny: TinyCoco, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny.arguments, *SETTINGS) == 2
    told = refused(capsys)
    assert "lists 10 pictures and 20 captions; val2014 has 40,504 and 202,654" in told
    assert not OUT.exists()


def test_a_partial_set_says_so_everywhere(
    run_cli: Cli, tiny: TinyCoco, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny.images / file_name(7)).unlink()
    assert run_cli(*tiny.arguments, *SETTINGS, "allow_partial=true") == 0
    assert "9 pictures, 18 captions of 40,504 and 202,654. allow_partial=true" in (
        capsys.readouterr().out
    )
    assert read_reference(OUT / "inception.safetensors").about.source.startswith(
        "PARTIAL, for trial: 9"
    )
    path = str(OUT / "prompts.csv")
    found = CocoPrompts(path=path, count=30_000, seed=0, allow_partial=True).read()
    assert len(found) == 9
    capsys.readouterr()
    assert run_cli(*tiny.arguments, *SETTINGS) == 2  # the whole set does not mix with it


def test_a_zip_that_is_not_the_official_one_is_refused(
    run_cli: Cli, official: TinyCoco, capsys: pytest.CaptureFixture[str]
) -> None:
    path = official.zipped()
    arguments = ["prepare", "source=coco", f"source.annotations={official.annotations}"]
    arguments += [f"source.images={path}", *SETTINGS, f"{COUNT}=4"]
    assert run_cli(*arguments) == 2
    assert f"{path} has MD5" in refused(capsys)
    assert not OUT.exists()
    assert run_cli(*arguments, "allow_partial=true") == 0


def test_the_published_list_is_taken(
    run_cli: Cli, official: TinyCoco, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    listed = tmp_path / "metadata (1).csv"
    listed.write_text(f"file_name,text\n{file_name(14)},an elephant\n")
    arguments = [*official.arguments, *SETTINGS, f"{COUNT}=1", f"reference_prompts={listed}"]
    assert run_cli(*arguments) == 2
    assert "1 of 1 texts are no caption" in refused(capsys)
    text = next(
        each["caption"]
        for each in json.loads(official.annotations.read_text())["annotations"]
        if each["image_id"] == 14
    )
    with listed.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "text"), (file_name(14), text)])
    assert run_cli(*arguments) == 0
    told = capsys.readouterr().out
    assert "prompts: 1, the list metadata (1).csv" in told
    assert "published scores" not in told


def test_references_are_made_of_coco_alone(
    run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("prepare", *SETTINGS) == 2
    assert "expected source=coco" in refused(capsys)


def test_a_folder_of_somebody_else_is_left_alone(
    run_cli: Cli, official: TinyCoco, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("prompts.csv", "parts/mine.txt"):
        mine = tmp_path / "mine" / name
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        assert run_cli(*official.arguments, *SETTINGS, f"{COUNT}=4", "out=mine") == 2
        assert "not of bksdm prepare" in refused(capsys)
        assert mine.read_text() == "mine"
        shutil.rmtree(tmp_path / "mine")


def test_prompts_that_are_gone_are_written_again(run_cli: Cli, official: TinyCoco) -> None:
    arguments = [*official.arguments, *SETTINGS, f"{COUNT}=4"]
    assert run_cli(*arguments) == 0
    before = contents(OUT)
    (OUT / "prompts.csv").unlink()
    assert run_cli(*arguments) == 0
    assert contents(OUT) == before


@pytest.mark.parametrize("setting", ["reference_prompts=mine.csv", "allow_partial=true"])
def test_settings_of_references_want_a_reference(
    run_cli: Cli, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    assert run_cli("prepare", setting) == 2
    assert "expected reference=" in refused(capsys)
    assert not Path("data").exists()


def test_what_prepare_makes_evaluate_takes(run_cli: Cli, tiny: TinyCoco) -> None:
    assert run_cli(*tiny.arguments, *SETTINGS, "allow_partial=true") == 0
    settings = [
        NETWORK.replace("reference.", ""),
        "protocol.measures.clip_score=null",
        "protocol.measures.inception_score=null",
        "protocol.decide=FID",
        "protocol.sampling.dtype=null",
        "protocol.sampling.steps=1",
        "protocol.prompts.count=2",
        "protocol.prompts.allow_partial=true",
    ]
    arguments = ["protocol=coco30k_bksdm", "model=shapes", "baseline=null", "latency=null"]
    assert run_cli("evaluate", *arguments, *settings) == 0
    [file] = Path("evaluation").rglob("results.json")
    [score] = json.loads(file.read_text())["models"][0]["scores"]
    assert (score["name"], score["n"]) == ("FID", 2)
    assert score["details"]["reference"]["source"].startswith("PARTIAL")
    assert len(list(file.parent.rglob("*.jpg"))) == 2
