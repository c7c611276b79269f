"""Files in the original layout, against diffusers' own readers of it and a naive one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from bksdm.errors import InputError
from bksdm.export.original import original_state, write_original
from bksdm.export.pipeline import assemble
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import load_teacher
from bksdm.surgery.blocks import remove_blocks
from bksdm.surgery.plan import TINY, BlockPlan
from tests.export.original_readers import (
    PLANS,
    UNET,
    UNEVEN,
    UNEVEN_TINY,
    assert_same,
    converted,
    naive_unet,
    real_size,
    student,
)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_diffusers_converters_give_every_tensor_back(kind: str, plan: BlockPlan) -> None:
    pipeline = student(kind, plan)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    for mine, module in zip(converted(original_state(pipeline), pipeline), parts, strict=True):
        assert_same(mine, module)


@pytest.mark.parametrize("name", ["sd14", "sd21_base"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_names_and_shapes_at_real_size_are_what_diffusers_reads(name: str, plan: BlockPlan) -> None:
    pipeline = real_size(name, plan)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    for mine, module in zip(converted(original_state(pipeline), pipeline), parts, strict=True):
        assert_same(mine, module)


@pytest.mark.parametrize("plan", [*PLANS.values(), UNEVEN, UNEVEN_TINY])
def test_a_reader_without_config_gets_every_unet_back(plan: BlockPlan) -> None:
    pipeline = student("sd1", plan)
    assert_same(naive_unet(original_state(pipeline)), pipeline.unet)


def test_a_reader_without_config_gets_tiny_with_gaps_back() -> None:
    pipeline = student("sd1", TINY)
    assert_same(naive_unet(original_state(pipeline, gaps=True)), pipeline.unet)


@pytest.fixture(scope="module")
def embedded() -> Any:
    return load_teacher(TeacherSource(name="shapes", path="embedded:shapes"))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_stock_diffusers_makes_the_same_image_of_the_file(
    embedded: Any, tmp_path: Path, plan: BlockPlan
) -> None:
    pipeline = assemble(embedded, remove_blocks(embedded.unet, plan=plan))
    pipeline.save_pretrained(tmp_path / "folder")
    write_original(pipeline, tmp_path / "student.safetensors")
    read = from_file(tmp_path)
    assert torch.equal(picture(pipeline), picture(read))


def from_file(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_single_file(
        str(folder / "student.safetensors"),
        config=str(folder / "folder"),
        torch_dtype=torch.float32,
        local_files_only=True,
    )


def picture(pipeline: StableDiffusionPipeline) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        for parameter in module.parameters():
            # Weights mapped from a file may lie unaligned, where CPU kernels round otherwise.
            parameter.data = parameter.data.clone()
    rng = [torch.Generator().manual_seed(7)]
    prompt = ["a big red circle on a white background"]
    return pipeline(prompt, num_inference_steps=3, generator=rng, output_type="pt").images


def test_diffusers_reads_no_unet_of_uneven_stages(embedded: Any, tmp_path: Path) -> None:
    """When this fails, diffusers has learnt it: say so in bksdm/export/original.py."""
    pipeline = assemble(embedded, remove_blocks(embedded.unet, plan=UNEVEN))
    pipeline.save_pretrained(tmp_path / "folder")
    write_original(pipeline, tmp_path / "student.safetensors")
    with pytest.raises(TypeError, match="list"):
        from_file(tmp_path)


def test_the_file_has_metadata_the_wanted_type_and_the_rights_of_others(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "student.safetensors"
    write_original(student("sd2", TINY), path, dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    with safe_open(path, "pt") as file:
        told = file.metadata()
    assert told["format"] == "pt"
    assert told["modelspec.prediction_type"] == told["modelspec.predict_key"] == "v"
    assert told["modelspec.resolution"] == "16x16"
    (tmp_path / "new").touch()
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode
    assert list(path.parent.iterdir()) == [path]


def test_shared_and_channels_last_tensors_are_written(tmp_path: Path) -> None:
    pipeline = student("sd1", TINY)
    kernel, shared = pipeline.vae.decoder.conv_in.weight, torch.randn(4)
    kernel.data = kernel.data.to(memory_format=torch.channels_last)
    pipeline.unet.conv_out.bias.data = pipeline.vae.post_quant_conv.bias.data = shared
    write_original(pipeline, tmp_path / "a.safetensors")
    read = load_file(tmp_path / "a.safetensors")
    assert torch.equal(read["first_stage_model.decoder.conv_in.weight"], kernel)
    for name in (f"{UNET}out.2.bias", "first_stage_model.post_quant_conv.bias"):
        assert torch.equal(read[name], shared)


def test_a_name_that_no_reader_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        write_original(student("sd1", TINY), tmp_path / "student.ckpt")
