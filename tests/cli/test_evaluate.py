"""`bksdm evaluate`: baselines, resuming, and what results hold."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bksdm.cli.models import named_model
from bksdm.evaluation.gallery import prompts_hash
from bksdm.evaluation.prompts import FilePrompts
from bksdm.evaluation.results import read_items, read_results
from tests.cli.conftest import COUNT, Cli, found, quick
from tests.conftest import tiny_run_arguments
from tests.training.processes import torchrun


def pictures(prompts: Path) -> dict[str, int]:
    paths = (prompts.parent / "out").rglob("images/*")
    return {str(path.relative_to(prompts.parent)): path.stat().st_mtime_ns for path in paths}


def test_a_student_beside_its_teacher(evaluated: str, prompts: Path) -> None:
    results = found(prompts)
    assert sorted(results) == ["student1", "teacher"]
    teacher, student = results["teacher"], results["student1"]
    assert teacher["against"] == []
    assert [each["name"] for each in teacher["scores"]] == ["denoising loss"]
    assert [each["name"] for each in student["scores"]] == [
        "denoising loss",
        "latent MSE to baseline",
        "SSIM to baseline",
    ]
    assert {each["n"] for each in student["scores"]} == {COUNT}
    (against,) = student["against"]
    assert (against["name"], against["weights"]) == ("teacher", teacher["weights"])
    assert [each["score"] for each in against["comparisons"]] == ["denoising loss"]
    difference = student["scores"][0]["value"] - teacher["scores"][0]["value"]
    assert against["comparisons"][0]["difference"]["value"] == pytest.approx(difference, abs=1e-9)
    tables, _, files = evaluated.partition("results: ")
    assert max(map(len, tables.splitlines())) <= 80
    assert tables.count("with n = 7 prompts") == 1
    assert files.count("results.json") == 2


def test_results_hold_what_repeats_them(
    evaluated: str, prompts: Path, once: tuple[Path, str]
) -> None:
    model = found(prompts)["student1"]
    settings = model["protocol"]["settings"]
    assert settings["sampling"]["steps"] == 2
    assert settings["sampling"]["guidance"] == 7.5
    assert settings["prompts"] == {
        "_target_": "bksdm.evaluation.prompts.FilePrompts",
        "path": str(once[0] / "prompts.txt"),
        "count": None,
        "seed": 0,
    }
    every = FilePrompts(path=str(prompts), seed=0).read()
    assert model["protocol"]["prompts"] == COUNT
    assert model["protocol"]["prompts_sha256"] == prompts_hash(every)
    environment = model["environment"]
    assert environment["command"].startswith("bksdm evaluate protocol=paired ")
    assert environment["command"].endswith(" 'model=[teacher,student1]'")
    assert environment["versions"]["torch"] == torch.__version__
    assert {"diffusers", "transformers", "bksdm", "python"} <= environment["versions"].keys()
    assert set(environment["weights"]) == {"unet", "text_encoder", "vae", "settings"}
    assert environment["machine"]["device"] in ("cpu", "cuda")
    assert environment["commit"]
    assert environment["date"].endswith("+00:00")
    assert model["unet"]["block_out_channels"] == [8, 16, 32, 32]
    assert model["cost"]["image"]["macs"] > 2 * 2 * model["cost"]["unet"]["total"]["macs"]
    folder = next((prompts.parent / "out" / "paired").glob("student1-*"))
    assert (folder / "prompts.csv").read_text().count("\n") == COUNT + 1
    generation = json.loads((folder / "generation.json").read_text())
    assert generation["sampling"]["guidance"] == 7.5
    assert generation["weights"] == model["weights"]
    items = read_items(folder)
    (read,) = read_results(folder / "results.json")
    for score in read.scores:
        assert score.value == pytest.approx(sum(items[score.name].values) / COUNT)


def test_the_same_command_makes_nothing_twice(evaluated: str, evaluate: Cli, prompts: Path) -> None:
    before, scores = pictures(prompts), found(prompts)["student1"]["scores"]
    assert len(before) == 2 * 2 * COUNT
    assert evaluate("model=[teacher,student1]") == 0
    assert pictures(prompts) == before
    assert found(prompts)["student1"]["scores"] == scores


def test_an_interrupted_evaluation_goes_on(evaluated: str, evaluate: Cli, prompts: Path) -> None:
    expected = {name: model["scores"] for name, model in found(prompts).items()}
    whole = pictures(prompts)
    folder = next((prompts.parent / "out" / "paired").glob("student1-*"))
    for name in ("000002.png", "000005.png", "000006.png", "000006.npy"):
        (folder / "images" / name).unlink()
    for path in folder.parent.rglob("*.json"):
        path.unlink()
    assert evaluate("model=[teacher,student1]") == 0
    again = pictures(prompts)
    changed = {name for name in whole if again[name] != whole[name]}
    assert {Path(name).stem for name in changed} == {"000002", "000005", "000006"}
    assert all("student1" in name for name in changed)
    for name, model in found(prompts).items():
        for one, other in zip(model["scores"], expected[name], strict=True):
            assert one["value"] == pytest.approx(other["value"], rel=1e-3)


def test_any_model_can_be_the_baseline(evaluated: str, evaluate: Cli, prompts: Path) -> None:
    before = pictures(prompts)
    assert evaluate("model=[teacher,student2]", "baseline=student2/") == 0
    results = found(prompts)
    assert results["teacher"]["against"][0]["name"] == "student2"
    assert results["student2"]["against"] == []
    assert pictures(prompts).items() >= before.items()
    assert len(pictures(prompts)) == 3 * 2 * COUNT


def test_a_model_that_is_its_own_baseline_is_measured(evaluate: Cli, prompts: Path) -> None:
    assert evaluate("model=teacher", "baseline=teacher") == 0
    (model,) = found(prompts).values()
    assert [each["name"] for each in model["scores"]] == ["denoising loss"]


def test_a_model_given_twice_is_measured_once(
    evaluated: str, evaluate: Cli, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("model=[teacher/,student1,student1/,student1]") == 0
    assert set(found(prompts)) == {"teacher", "student1"}
    assert capsys.readouterr().out.count("with n = 7") == 1


def test_a_copy_under_another_name_is_not_distinguishable(
    evaluate: Cli, prompts: Path, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "teacher", tmp_path / "copy")
    assert evaluate(f"model=[teacher,{tmp_path / 'copy'}]") == 0
    copy = found(prompts)[str(tmp_path / "copy")]
    (comparison,) = copy["against"][0]["comparisons"]
    assert comparison["verdict"] == "not distinguishable"
    values = {each["name"]: each["value"] for each in copy["scores"]}
    assert values["latent MSE to baseline"] == 0
    assert values["SSIM to baseline"] == pytest.approx(1)


def test_a_run_is_beside_its_teacher(
    evaluate: Cli, run_cli: Cli, sd1_folder: Path, shards: Path, prompts: Path, tmp_path: Path
) -> None:
    train = tiny_run_arguments(sd1_folder, shards)
    assert run_cli(*train, "name=run", "trainer.max_steps=1", "protocol=none") == 0
    run = tmp_path / "runs" / "run"
    assert evaluate(f"model={run}") == 0
    results = found(prompts)
    assert set(results) == {"tiny", str(run)}
    assert results[str(run)]["against"][0]["name"] == "tiny"
    assert results[str(run)]["plan"]["teacher"]["block_out_channels"] == [8, 16, 32, 32]
    assert results["tiny"]["plan"] is None
    assert any(name.endswith("loss") for name in results[str(run)]["curves"])
    assert named_model(str(run)).curves == results[str(run)]["curves"]


SHAPES = [
    "evaluate",
    "model=shapes",
    "protocol.prompts.count=5",
    "protocol.prompts.held_out=2",
    "protocol.sampling.steps=2",
    "protocol.measures.denoising.count=4",
]


def test_the_embedded_teacher_alone(
    run_cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quickly = ["latency.repeats=1", "latency.image_repeats=1", "latency.batch_sizes=[2]"]
    assert run_cli(*SHAPES, *quickly, "protocol.measures.ssim=null") == 0
    (file,) = (tmp_path / "evaluation" / "shapes").glob("shapes-*/results.json")
    (model,) = read_results(file)
    by_name = {score.name: score for score in model.scores}
    assert by_name["all attributes right"].n == 5
    assert by_name["all attributes right: held out"].n == 2
    assert by_name["denoising loss"].n == 4
    assert model.speed is not None
    assert {each["batch"] for each in model.speed["unet_calls"]} == {1, 2}
    assert model.against == ()
    assert len(list((file.parent / "images").glob("*.png"))) == 7


@pytest.mark.parametrize(
    ("count", "names"),
    [(COUNT, "teacher,student1"), (1, "student1")],
    ids=["an odd number", "none for one"],
)
def test_two_processes_find_what_one_finds(
    evaluate: Cli, prompts: Path, models: Path, tmp_path: Path, count: int, names: str
) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    arguments = [
        f"model=[{names}]",
        f"baseline={names.partition(',')[0]}",
        f"protocol.prompts.count={count}",
        "protocol.sampling.batch_size=1",
    ]
    assert evaluate(*arguments, f"out={alone}") == 0
    torchrun(["evaluate", *quick(prompts)[:-1], *arguments, f"out={both}"], models)
    files = sorted(path.relative_to(alone) for path in alone.rglob("results.json"))
    assert files == sorted(path.relative_to(both) for path in both.rglob("results.json"))
    assert len(files) == len(names.split(","))
    for file in files:
        (one,), (two,) = read_results(alone / file), read_results(both / file)
        assert [score.n for score in two.scores] == [score.n for score in one.scores]
        for ours, theirs in zip(two.scores, one.scores, strict=True):
            assert ours.name == theirs.name
            assert ours.value == pytest.approx(theirs.value, rel=1e-6)
            assert ours.low == pytest.approx(theirs.low, rel=1e-6)
        assert read_items((both / file).parent).keys() == read_items((alone / file).parent).keys()
        assert len(list((both / file).parent.glob("images/*.png"))) == count
