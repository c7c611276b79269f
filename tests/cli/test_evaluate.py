"""`bksdm evaluate`: baselines, resuming, what results hold, and bad input in one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bksdm.cli.models import named_model
from bksdm.evaluation.gallery import prompts_hash
from bksdm.evaluation.prompts import FilePrompts
from bksdm.evaluation.results import read_items, read_results
from tests.conftest import tiny_run_arguments
from tests.training.processes import torchrun

Cli = Callable[..., int]
COUNT = 7


@pytest.fixture(scope="session")
def models(sd1_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `teacher` and two `student`s that differ from it a little."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(sd1_folder, folder / "teacher")
    for number in (1, 2):
        pipeline = StableDiffusionPipeline.from_pretrained(sd1_folder, safety_checker=None)
        rng = torch.Generator().manual_seed(number)
        for parameter in pipeline.unet.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=rng)
        pipeline.save_pretrained(folder / f"student{number}")
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    write_prompts(path)
    return path


def write_prompts(path: Path) -> None:
    path.write_text("".join(f"a dog number {i}\n" for i in range(COUNT)))


@pytest.fixture
def evaluate(run_cli: Cli, prompts: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`bksdm evaluate` among the models, quickly."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> int:
        monkeypatch.chdir(models)
        return run_cli("evaluate", *quick(prompts), *arguments)

    return run


def quick(prompts: Path) -> list[str]:
    return [
        "protocol=paired",
        f"protocol.prompts.path={prompts}",
        "protocol.sampling.steps=2",
        "protocol.measures.denoising.draws=1",
        "latency=null",
        f"out={prompts.parent / 'out'}",
    ]


@pytest.fixture(scope="module")
def once(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where teacher and student1 have been evaluated, and what was printed."""
    folder = tmp_path_factory.mktemp("once")
    write_prompts(folder / "prompts.txt")
    command = ["evaluate", *quick(folder / "prompts.txt"), "model=[teacher,student1]"]
    done = subprocess.run(
        [sys.executable, "-m", "bksdm.cli.main", *command],
        cwd=models,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def evaluated(once: tuple[Path, str], prompts: Path) -> str:
    """The same in this test's folder; returns what was printed."""
    shutil.copytree(once[0] / "out", prompts.parent / "out")
    return once[1]


def found(prompts: Path) -> dict[str, dict[str, Any]]:
    """The models of all results files, by name."""
    files = (prompts.parent / "out").rglob("results.json")
    each = [json.loads(file.read_text())["models"][0] for file in files]
    return {model["name"]: model for model in each}


def pictures(prompts: Path) -> dict[str, int]:
    paths = (prompts.parent / "out").rglob("images/*")
    return {str(path.relative_to(prompts.parent)): path.stat().st_mtime_ns for path in paths}


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["model="]),
        (["model=[]"], ["model=[]", "at least one"]),
        (["model=null"], ["model="]),
        (["model=nowhere/at/all"], ["nowhere/at/all"]),
        (["model=nosuchmodel"], ["nosuchmodel"]),
        (["model=teacher", "baseline=nosuchmodel"], ["nosuchmodel"]),
        (["model=teacher", "devices=0"], ["devices=0", "at least 1"]),
        (["model=teacher", "devices=-1"], ["devices=-1"]),
        (["model=teacher", "devices=many"], ["devices=many", "auto"]),
        (["model=teacher", "devices=true"], ["devices=True"]),
        (["model=teacher", "devices=1.5"], ["devices=1.5"]),
        (["model=teacher", "baseline=teacher", "protocol.decide=FID"], ["FID", "denoising loss"]),
        (["model=teacher", "baseline=teacher", "protocol.decide=null"], ["decide"]),
        (["model=teacher", "protocol.colour=red"], ["protocol.colour"]),
        (["model=teacher", "protocol=paired2"], ["paired2"]),
        (["model=teacher", "protocol=none"], ["protocol"]),
        (["model=teacher", "protocol.sampling.scheduler=Foo"], ["scheduler=Foo", "PNDMScheduler"]),
        (
            [
                "model=teacher",
                "protocol.sampling.scheduler=PNDMScheduler",
                "protocol.sampling.scheduler_settings={colour: 1}",
            ],
            ["scheduler_settings=colour", "skip_prk_steps"],
        ),
        (["model=teacher", "protocol.sampling.steps=0"], ["sampling.steps=0"]),
        (["model=teacher", "protocol.sampling.steps=-3"], ["sampling.steps=-3"]),
        (["model=teacher", "protocol.sampling.batch_size=0"], ["sampling.batch_size=0"]),
        (["model=teacher", "protocol.sampling.guidance=-1"], ["sampling.guidance=-1"]),
        (["model=teacher", "protocol.sampling.size=30", "baseline=teacher"], ["sampling.size=30"]),
        (["model=teacher", "protocol.prompts.path=nothing.txt"], ["nothing.txt"]),
        (["model=teacher", "protocol.prompts.seed=-1"], ["prompts.seed=-1"]),
        (["model=teacher", "protocol.measures.denoising.draws=0"], ["draws=0"]),
        (["model=teacher", "protocol.measures=null"], ["measures"]),
        (["model=teacher", "protocol.measures=3"], ["measures=3"]),
        (["model=teacher", "protocol.sampling=3"], ["protocol.sampling=3", "settings"]),
        (["model=teacher", "protocol.keeping=null"], ["protocol.keeping=None"]),
        (["model=teacher", "protocol.prompts=3"], ["protocol.prompts=3"]),
        (["model=teacher", "protocol.measures.ssim=3"], ["protocol.measures.ssim=3"]),
        (["model=teacher", "protocol.latents=maybe"], ["protocol.latents=maybe"]),
        (["model=teacher"], ["baseline"]),
        (["model=teacher", "protocol.latents=false", "baseline=student1"], ["latents: true"]),
        (["model=teacher", "latency.repeats=0"], ["repeats"]),
        (["model=shapes", "baseline=teacher"], ["same size"]),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_line(
    evaluate: Cli,
    prompts: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    assert evaluate(*arguments) == 2
    line = refused(capsys)
    assert line.startswith("bksdm evaluate: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("count=-1", "prompts.count=-1"),
        ("held_out=-1", "prompts.held_out=-1"),
        ("seed=-1", "prompts.seed=-1"),
        ("count=1.5", "prompts.count=1.5"),
    ],
)
def test_impossible_prompts_of_the_shapes_world_are_refused(
    run_cli: Cli, capsys: pytest.CaptureFixture[str], setting: str, words: str
) -> None:
    assert run_cli("evaluate", "model=shapes", f"protocol.prompts.{setting}") == 2
    assert words in refused(capsys)


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


def test_pictures_of_another_size_are_no_shapes(
    evaluate: Cli, capsys: pytest.CaptureFixture[str], run_cli: Cli, models: Path
) -> None:
    assert run_cli("evaluate", f"model={models / 'student1'}", "protocol.prompts.count=2") == 2
    assert "choose another protocol=" in refused(capsys)


def test_a_damaged_picture_is_one_line(
    evaluated: str, evaluate: Cli, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((prompts.parent / "out").rglob("teacher-*/images/000003.png"))
    path.write_bytes(path.read_bytes()[:60])
    assert evaluate("model=teacher", "baseline=teacher") == 2
    assert "000003.png" in refused(capsys)


def test_one_model_that_cannot_be_measured_loses_none_before_it(
    evaluated: str, evaluate: Cli, prompts: Path, models: Path, tmp_path: Path
) -> None:
    for path in (prompts.parent / "out").rglob("results.json"):
        path.unlink()
    broken = shutil.copytree(models / "student1", tmp_path / "broken")
    unet = UNet2DConditionModel.from_pretrained(broken / "unet")
    unet.register_to_config(sample_size=12)
    unet.save_config(broken / "unet")
    assert evaluate(f"model=[teacher,{broken}]") == 2
    assert set(found(prompts)) == {"teacher"}


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


def test_a_refusal_in_one_of_two_processes_ends_both_in_order(
    evaluated: str, prompts: Path, models: Path
) -> None:
    path = next((prompts.parent / "out").rglob("teacher-*/images/000003.png"))
    path.write_bytes(b"")  # the second process's
    said = torchrun(["evaluate", *quick(prompts), "model=[teacher,student1]"], models, code=1)
    assert "000003.png" in said
    assert "bksdm" in said
    assert "all_gather" not in said, said
