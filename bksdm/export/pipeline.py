"""Stock pipelines: put together in memory, read from a diffusers folder, and which guidance suits
them.
"""

import json
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bksdm import expected
from bksdm.errors import InputError
from bksdm.export.mixture_folder import is_mixture, load_mixture
from bksdm.export.narrow import narrow_from_hub, narrow_networks
from bksdm.export.packed_parts import fetched_from_hub, packed_networks
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
    """A pipeline from a diffusers folder or the Hub, in fp32; its weights may be packed, its
    U-Net narrow, and it may be a mixture.

    Raises:
        InputError: there is none.
    """
    here = Path(folder)
    if is_mixture(here):
        return load_mixture(here)
    if here.is_dir():
        return _pipeline(folder, revision, _own_networks(here))
    try:
        return _pipeline(folder, revision, {})
    except InputError:
        # Only now: nobody else's model needs this question.
        for fetch in (fetched_from_hub, narrow_from_hub):
            fetched = fetch(str(folder), revision=revision)
            if fetched is not None:
                return _pipeline(folder, revision, _own_networks(fetched))
        raise


def _own_networks(folder: Path) -> dict[str, Any]:
    """The networks of a folder that stock diffusers cannot read."""
    return packed_networks(folder) | narrow_networks(folder)


def _pipeline(
    folder: Path | str, revision: str | None, networks: dict[str, Any]
) -> StableDiffusionPipeline:
    try:
        pipeline: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            revision=revision,
            dtype=torch.float32,
            safety_checker=None,
            requires_safety_checker=False,
            **networks,
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
