import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.prompts import from_texts
from bksdm.export.pipeline import assemble, compare, export_student, load_pipeline
from bksdm.models.teacher import Teacher
from bksdm.surgery.blocks import remove_blocks
from bksdm.surgery.plan import SMALL, TINY, BlockPlan

STOCK = """
import sys, torch
sys.modules["bksdm"] = None
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
image = pipeline(["a red circle"], height=16, width=16, num_inference_steps=3, guidance_scale=3.0,
                 generator=[torch.Generator().manual_seed(7)], output_type="latent").images
torch.save(image, sys.argv[2])
"""


@pytest.mark.parametrize("plan", [TINY])
def test_stock_diffusers_makes_the_same_image(
    teacher: Teacher, tmp_path: Path, plan: BlockPlan
) -> None:
    student = remove_blocks(teacher.unet, plan=plan)
    export_student(teacher, student, tmp_path / "student")
    command = [sys.executable, "-c", STOCK, str(tmp_path / "student"), str(tmp_path / "image.pt")]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    sampling = Sampling(steps=3, guidance=3.0, batch_size=1)
    mine = next(
        generate(assemble(teacher, student), from_texts(["a red circle"], seed=7), sampling)
    ).latents
    torch.testing.assert_close(torch.load(tmp_path / "image.pt")[0], mine, rtol=1e-4, atol=1e-5)


def test_an_old_export_stays_until_the_new_one_is_proven(teacher: Teacher, tmp_path: Path) -> None:
    student = remove_blocks(teacher.unet, plan=SMALL)
    export_student(teacher, student, tmp_path / "student")
    export_student(teacher, student, tmp_path / "student")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_changed_weight_is_noticed(teacher: Teacher, tmp_path: Path) -> None:
    student = remove_blocks(teacher.unet, plan=SMALL)
    export_student(teacher, student, tmp_path / "student")
    path = tmp_path / "student" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"][0] += 1e-3
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="does not reload"):
        compare(student, load_pipeline(tmp_path / "student").unet)
