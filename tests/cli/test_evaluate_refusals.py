"""`bksdm evaluate`: bad input in one line, and what was measured before it stays."""

import shutil
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from tests.cli.conftest import Cli, found, quick
from tests.training.processes import torchrun


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


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


def test_a_refusal_in_one_of_two_processes_ends_both_in_order(
    evaluated: str, prompts: Path, models: Path
) -> None:
    path = next((prompts.parent / "out").rglob("teacher-*/images/000003.png"))
    path.write_bytes(b"")  # the second process's
    said = torchrun(["evaluate", *quick(prompts), "model=[teacher,student1]"], models, code=1)
    assert "000003.png" in said
    assert "bksdm" in said
    assert "all_gather" not in said, said
