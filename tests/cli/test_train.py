"""The main job on the command line: cut, distil, export, look, evaluate."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from bksdm.evaluation.results import read_results
from tests.conftest import tiny_run_arguments

Cli = Callable[..., int]


@pytest.mark.parametrize("student", ["base", "tiny"])
def test_any_stable_diffusion_folder_goes_through_all_commands(
    run_cli: Cli, teacher_folder: Path, shards: Path, tmp_path: Path, student: str
) -> None:
    arguments = tiny_run_arguments(teacher_folder, shards)
    sampling = [
        "samples.every_n_steps=2",
        "samples.sampling.steps=2",
        "samples.prompts=[a red circle]",
    ]
    assert (
        run_cli(*arguments, *sampling, f"student={student}", "speed.gradient_checkpointing=true")
        == 0
    )
    run = tmp_path / "runs" / f"tiny-{student}"
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        "step_000002.png",
        "step_000004.png",
    ]
    pipeline = StableDiffusionPipeline.from_pretrained(run / "student")
    assert pipeline.unet.config.layers_per_block == 1
    assert (pipeline.unet.mid_block is None) == (student == "tiny")
    assert all(tensor.is_contiguous() for tensor in pipeline.unet.state_dict().values())
    assert (
        run_cli("generate", f"model={run}", "prompt=a red circle", "steps=2", "images_per_prompt=2")
        == 0
    )
    assert Image.open("outputs/generate/grid.png").size[0] > 16
    assert len(list(Path("outputs/generate").glob("0*.png"))) == 2
    assert run_cli("export", f"run={run}", "weights=raw", "out=raw") == 0
    raw = StableDiffusionPipeline.from_pretrained("raw").unet.state_dict()
    averaged = pipeline.unet.state_dict()
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)


def test_the_embedded_world_end_to_end(
    run_cli: Cli, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `make train-small` does, with fewer steps and prompts."""
    arguments = [
        "train",
        f"data.shards={shards}/train-*.tar",
        f"data.validation_shards={shards}/validation-*.tar",
        "data.batch_size=8",
        "data.global_batch=8",
        "data.validation_samples=8",
        "trainer.max_steps=3",
        "samples.every_n_steps=3",
        "samples.sampling.steps=2",
        "protocol.prompts.count=8",
        "protocol.prompts.held_out=4",
        "protocol.sampling.steps=3",
        "protocol.measures.denoising.count=16",
    ]
    assert run_cli(*arguments) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1].startswith("picture: runs/shapes-small/samples/step_000003.png")
    run = tmp_path / "runs/shapes-small"
    teacher, before, after = read_results(run / "results.json")
    assert [each.name for each in (teacher, before, after)] == [
        "teacher",
        "student before",
        "student after",
    ]
    parameters = [each.cost["unet"]["total"]["parameters"] for each in (teacher, after)]
    assert parameters[0] > parameters[1]
    losses = [each.score("denoising loss").value for each in (teacher, after, before)]
    assert losses == sorted(losses)
    assert teacher.score("latent MSE to baseline") is None
    assert after.score("latent MSE to baseline").value > 0
    assert teacher.score("background").n == 8
    assert after.against[0].name == "teacher"
    assert len(list((run / after.images).glob("*.png"))) == 12
    assert after.curves["train/loss"]
    # Killed between training and the end: the same command does only what is missing.
    (tmp_path / "runs/shapes-small/results.json").unlink()
    assert run_cli(*arguments) == 0
    assert (tmp_path / "runs/shapes-small/results.json").exists()


def test_random_init_is_another_student(run_cli: Cli, tiny_run: list[str], tmp_path: Path) -> None:
    for method in ("bk_sdm", "random_init", "task_only", "output_kd", "balanced"):
        assert run_cli(*tiny_run, f"method={method}", f"name={method}") == 0
    weights = {
        name: StableDiffusionPipeline.from_pretrained(
            tmp_path / "runs" / name / "student"
        ).unet.conv_in.weight
        for name in ("bk_sdm", "random_init", "task_only")
    }
    assert (weights["bk_sdm"] - weights["task_only"]).abs().max() < 0.01
    assert (weights["bk_sdm"] - weights["random_init"]).abs().max() > 0.01


def test_bad_samples_are_said_on_the_command_line(
    run_cli: Cli,
    tiny_run: list[str],
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for path in shards.glob("*.tar"):
        (own / path.name).write_bytes(path.read_bytes().replace(b"\x89PNG", b"\x89GNP"))
    arguments = [argument.replace(str(shards), str(own)) for argument in tiny_run]
    assert run_cli(*arguments, "name=bad") == 2
    assert "holds no readable sample" in capsys.readouterr().err
