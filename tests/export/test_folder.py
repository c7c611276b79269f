import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bksdm.errors import InputError
from bksdm.export import proof, stranger
from bksdm.export.about import ABOUT, About, about_folder
from bksdm.export.folder import ExportSettings, compare, export_student
from bksdm.export.pipeline import assemble, load_pipeline
from bksdm.models.teacher import Teacher
from bksdm.surgery.blocks import remove_blocks
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan

HERE = ExportSettings(fresh_process=False)
ABOUT_IT = About(
    weights="raw",
    step=7,
    plan={},
    teacher={"path": "a", "unet": {"block_out_channels": [8]}},
    versions={"torch": "2"},
)


@pytest.mark.parametrize(
    ("plan", "settings"),
    [
        (BASE, ExportSettings(fp16=True, single_file=True)),
        (SMALL, ExportSettings(identity_mid=True, single_file=True)),
        (TINY, ExportSettings()),
    ],
    ids=["base", "small", "tiny"],
)
def test_a_stranger_draws_the_same_picture_bit_for_bit(
    teacher: Teacher, tmp_path: Path, plan: BlockPlan, settings: ExportSettings
) -> None:
    student = remove_blocks(teacher.unet, plan=plan)
    export_student(teacher, student, tmp_path / "student", settings=settings)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    weights = sorted(path.name for path in (tmp_path / "student").rglob("*.safetensors"))
    assert ("diffusion_pytorch_model.fp16.safetensors" in weights) == settings.fp16
    assert ("student.safetensors" in weights) == settings.single_file
    assert not list((tmp_path / "student").rglob("*.bin"))


@pytest.fixture
def exported(teacher: Teacher, tmp_path: Path) -> tuple[Path, proof.Claim]:
    """A Small, and what is claimed of it."""
    student = remove_blocks(teacher.unet, plan=SMALL)
    folder = tmp_path / "student"
    export_student(teacher, student, folder, settings=HERE)
    pipeline = assemble(teacher, student)
    drawn = stranger.picture(pipeline)
    return folder, proof.Claim(path=folder, expected=drawn, config=dict(student.config))


def test_a_changed_weight_is_noticed_in_the_fresh_process(
    exported: tuple[Path, proof.Claim], tmp_path: Path
) -> None:
    folder, claim = exported
    _change_a_weight(folder)
    with pytest.raises(RuntimeError, match="draws another picture"):
        proof.prove([claim], tmp_path)


def test_another_config_is_noticed(exported: tuple[Path, proof.Claim], tmp_path: Path) -> None:
    _, claim = exported
    with pytest.raises(RuntimeError, match="another config"):
        proof.prove([replace(claim, config={**claim.config, "act_fn": "gelu"})], tmp_path)


def test_a_folder_that_does_not_load_is_noticed(
    exported: tuple[Path, proof.Claim], tmp_path: Path
) -> None:
    folder, claim = exported
    (folder / "vae" / "config.json").write_text("{")
    with pytest.raises(RuntimeError, match="stock diffusers does not load"):
        proof.prove([claim], tmp_path)


def test_a_stranger_cannot_import_bksdm() -> None:
    code = (
        "import io, runpy, sys\n"
        'sys.stdin = io.StringIO(\'{"threads": 1, "jobs": []}\')\n'
        f"runpy.run_path({stranger.__file__!r}, run_name='__main__')\n"
        "import bksdm"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]"
    assert "ModuleNotFoundError: import of bksdm halted" in done.stderr


def test_a_process_that_is_killed_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, exported: tuple[Path, proof.Claim], tmp_path: Path
) -> None:
    killer = tmp_path / "killer.py"
    killer.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(stranger, "__file__", str(killer))
    with pytest.raises(InputError, match=r"SIGKILL.*export.fresh_process=false"):
        proof.prove([exported[1]], tmp_path)


def test_an_old_export_stays_until_the_new_one_is_proven(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = remove_blocks(teacher.unet, plan=SMALL)
    export_student(teacher, student, tmp_path / "student", settings=HERE, about=ABOUT_IT)
    before = (tmp_path / "student" / "model_index.json").stat().st_mtime_ns

    def fail(*_: object) -> None:
        raise RuntimeError("another picture")

    monkeypatch.setattr("bksdm.export.folder.compare", fail)
    with pytest.raises(RuntimeError, match="another picture"):
        export_student(teacher, student, tmp_path / "student", settings=HERE)
    assert (tmp_path / "student" / "model_index.json").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_an_old_export_is_replaced(teacher: Teacher, tmp_path: Path) -> None:
    for plan in (SMALL, TINY):
        student = remove_blocks(teacher.unet, plan=plan)
        export_student(teacher, student, tmp_path / "s", settings=HERE, about=ABOUT_IT)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert len(load_pipeline(tmp_path / "s").unet.down_blocks) == TINY.stages


@pytest.mark.parametrize("file", ["model_index.json", "mine.txt"])
def test_what_we_did_not_write_is_not_replaced(teacher: Teacher, tmp_path: Path, file: str) -> None:
    """Not even another pipeline, such as the teacher's own."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / file).write_text("{}")
    with pytest.raises(InputError, match="choose another folder"):
        export_student(teacher, teacher.unet, tmp_path / "s", settings=HERE, about=ABOUT_IT)
    assert [path.name for path in (tmp_path / "s").iterdir()] == [file]


def test_a_changed_weight_is_noticed_here(teacher: Teacher, tmp_path: Path) -> None:
    student = remove_blocks(teacher.unet, plan=SMALL)
    export_student(teacher, student, tmp_path / "student", settings=HERE)
    _change_a_weight(tmp_path / "student")
    with pytest.raises(RuntimeError, match="does not reload"):
        compare(student, load_pipeline(tmp_path / "student").unet)


def test_half_precision_is_half_and_leaves_the_configs_alone(
    teacher: Teacher, tmp_path: Path
) -> None:
    student = remove_blocks(teacher.unet, plan=SMALL)
    export_student(teacher, student, tmp_path / "plain", settings=HERE)
    both = replace(HERE, fp16=True)
    export_student(teacher, student, tmp_path / "both", settings=both)
    file = tmp_path / "both" / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    with safe_open(file, framework="pt") as half:
        for name, tensor in student.state_dict().items():
            assert torch.equal(half.get_tensor(name), tensor.half()), name
    for config in (tmp_path / "plain").rglob("*.json"):
        other = tmp_path / "both" / config.relative_to(tmp_path / "plain")
        assert json.loads(other.read_text()) == json.loads(config.read_text()), config
    assert student.dtype == teacher.vae.dtype == torch.float32


def test_weights_beyond_half_precision_are_refused(teacher: Teacher, tmp_path: Path) -> None:
    student = remove_blocks(teacher.unet, plan=SMALL)
    with torch.no_grad():
        student.conv_in.bias[0] = 1e6
    with pytest.raises(InputError, match=r"export.fp16=true: unet conv_in.bias"):
        export_student(teacher, student, tmp_path / "s", settings=replace(HERE, fp16=True))
    assert not list(tmp_path.iterdir())


def test_uneven_stages_have_no_single_file(teacher: Teacher, tmp_path: Path) -> None:
    student = remove_blocks(teacher.unet, plan=replace(SMALL, down=((0, 1), (0,), (0,), (0,))))
    with pytest.raises(InputError, match="layers a stage"):
        export_student(teacher, student, tmp_path / "s", settings=replace(HERE, single_file=True))


def test_a_folder_says_where_it_comes_from(teacher: Teacher, tmp_path: Path) -> None:
    student = remove_blocks(teacher.unet, plan=SMALL)
    export_student(teacher, student, tmp_path / "s", settings=HERE, about=ABOUT_IT)
    found = about_folder(tmp_path / "s")
    assert found is not None
    assert found.export["fresh_process"] is False
    assert replace(found, export={}) == ABOUT_IT
    (tmp_path / "s" / ABOUT).write_text("{}")
    with pytest.raises(InputError, match="export again"):
        about_folder(tmp_path / "s")


@pytest.mark.parametrize("plan", [BASE, SMALL, TINY], ids=["base", "small", "tiny"])
def test_stock_pipelines_draw_with_few_steps_from_text_and_from_pictures(
    teacher: Teacher, tmp_path: Path, plan: BlockPlan
) -> None:
    student = remove_blocks(teacher.unet, plan=plan)
    export_student(teacher, student, tmp_path / "s", settings=HERE)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "s", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    rng = torch.Generator().manual_seed(0)
    first = pipeline("a dog", num_inference_steps=8, generator=rng, output_type="np").images[0]
    side = teacher.picture_size
    assert first.shape == (side, side, 3)
    assert np.isfinite(first).all()
    again = StableDiffusionImg2ImgPipeline.from_pipe(pipeline)
    again.set_progress_bar_config(disable=True)
    picture = Image.fromarray((255 * first).astype(np.uint8))
    second = again(
        "a cat", image=picture, strength=0.5, num_inference_steps=8, output_type="np"
    ).images[0]
    assert second.shape == first.shape
    assert np.isfinite(second).all()
    assert not np.array_equal(first, second)


def _change_a_weight(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"][0] += 1e-3
    save_file(weights, path, metadata={"format": "pt"})
