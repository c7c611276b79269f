"""A student as a stock diffusers folder, and the proof that the folder holds what was trained."""

import json
import shutil
from pathlib import Path
from typing import Final

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bksdm import expected
from bksdm.atomic import open_to_others
from bksdm.errors import InputError
from bksdm.models.hub import first_line
from bksdm.models.teacher import Teacher
from bksdm.processes import Process

SAMPLING: Final = "sampling.json"  # beside model_index.json; stock diffusers does not look at it


def assemble(teacher: Teacher, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """A stock pipeline of the teacher's parts around `unet`, without progress bar and safety
    checker.
    """
    pipeline = StableDiffusionPipeline(
        vae=teacher.vae,
        text_encoder=teacher.text_encoder,
        tokenizer=teacher.tokenizer,
        unet=unet,
        scheduler=teacher.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_pipeline(folder: Path | str, *, revision: str | None = None) -> StableDiffusionPipeline:
    """A pipeline from a diffusers folder or the Hub, in fp32.

    Raises:
        InputError: there is none.
    """
    try:
        pipeline: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            revision=revision,
            dtype=torch.float32,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"model {folder}: {first_line(error)}; expected a diffusers folder, a run, or a Hub id"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def best_device(process: Process | None = None) -> torch.device:
    """The GPU if there is one; its own for each process of a node."""
    gpus = torch.cuda.device_count()  # one, if srun gives each task its own
    if not gpus:
        return torch.device("cpu")
    return torch.device("cuda" if process is None else f"cuda:{process.local_rank % gpus}")


def export_student(
    teacher: Teacher,
    student: UNet2DConditionModel,
    folder: Path,
    *,
    guidance: float | None = None,
) -> None:
    """Write the student with the teacher's other parts, reload the folder, compare, and only then
    give it its name.

    Args:
        teacher: whose other parts it shares.
        student: the U-Net.
        folder: to write, or to replace.
        guidance: classifier-free guidance scale that suits it, for `folder_guidance`; None says
            nothing.

    Raises:
        InputError: the folder holds something else.
        RuntimeError: the reloaded U-Net differs, in weights or in output.
    """
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise InputError(f"{folder} exists and is no exported pipeline; choose another folder")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline = assemble(teacher, student)
    for tensor in student.parameters():
        tensor.data = tensor.data.contiguous()  # some readers refuse channels_last tensors
    pipeline.save_pretrained(temporary)
    if guidance is not None:
        write_guidance(temporary, guidance)
    for path in temporary.rglob("*"):
        if path.is_file():
            open_to_others(path)
    compare(student, load_pipeline(temporary).unet)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def write_guidance(folder: Path, guidance: float) -> None:
    """Say in a diffusers folder which guidance scale suits it, as an argument of the pipeline's
    call: model_index.json has no place for that.
    """
    (folder / SAMPLING).write_text(json.dumps({"guidance_scale": float(guidance)}) + "\n")


def folder_guidance(folder: Path) -> float | None:
    """The guidance scale that a diffusers folder says of itself; None where it says none.

    Raises:
        InputError: what it says is no number.
    """
    path = folder / SAMPLING
    if not path.is_file():
        return None
    try:
        guidance = json.loads(path.read_text())["guidance_scale"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: expected {{"guidance_scale": a number}}') from error
    expected.number(f"{path}: guidance_scale", guidance, least=0)
    return float(guidance)


@torch.no_grad()
def compare(student: UNet2DConditionModel, reloaded: UNet2DConditionModel) -> None:
    """Raise unless both have equal weights and equal outputs on one random input."""
    weights, others = student.state_dict(), reloaded.state_dict()
    if weights.keys() != others.keys() or not all(
        torch.equal(w.cpu(), others[n]) for n, w in weights.items()
    ):
        raise RuntimeError("the exported U-Net does not reload with the weights that were trained")
    for parameter in reloaded.parameters():
        # Weights mapped from a file may lie unaligned, where CPU kernels round otherwise.
        parameter.data = parameter.data.clone()
    size, rng = student.config.sample_size, torch.Generator().manual_seed(0)
    latents = torch.randn(1, student.config.in_channels, size, size, generator=rng)
    text = torch.randn(1, 8, student.config.cross_attention_dim, generator=rng)
    training = student.training
    outputs = [
        model.eval()(
            latents.to(model.device),
            torch.tensor([500], device=model.device),
            text.to(model.device),
        ).sample
        for model in (student, reloaded.to(student.device))
    ]
    student.train(training)
    if not torch.equal(*outputs):
        raise RuntimeError("the exported U-Net does not answer as the one that was trained")
