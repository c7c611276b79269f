"""A narrow U-Net in a diffusers folder: stock config, `plan.json`, and the small weights.

Its config is its teacher's and does not say how narrow it is, so that nobody but bksdm can rebuild
it. The weights have a name of their own: a stock reader finds none and says so, where it would
otherwise fill dropped modules with noise.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bksdm.errors import InputError
from bksdm.models.address import HubAddress
from bksdm.models.hub import first_line, hub_folder
from bksdm.models.source import NARROW
from bksdm.surgery.narrow import empty_narrow
from bksdm.surgery.width import WidthPlan

PLAN: Final = "plan.json"
_UNET: Final = "unet"


def read_plan(path: Path) -> WidthPlan:
    """The width plan in a file.

    Raises:
        InputError: it is missing, or none.
    """
    try:
        return WidthPlan.from_json(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the plan of an expert") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = str(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(
            f"{path}: no width plan ({told}); expected the plan.json of an expert, as `bksdm route`"
            " writes it"
        ) from error


def narrow_plan(folder: Path) -> WidthPlan | None:
    """What the U-Net of a diffusers folder was cut to; None for a stock one.

    Raises:
        InputError: what it says is no plan.
    """
    path = folder / _UNET / PLAN
    if path.is_file() or (folder / _UNET / NARROW).is_file():
        return read_plan(path)
    return None


def narrow_networks(folder: Path) -> dict[str, Any]:
    """The narrow U-Net of a folder by its component, in fp32 and eval mode on the CPU; nothing for
    a folder without.

    Raises:
        InputError: a file is damaged, or not of the network that plan and config say.
    """
    path = folder / _UNET / NARROW
    if not path.is_file():
        return {}
    plan = narrow_plan(folder)
    assert plan is not None
    try:
        unet = hollow_unet(folder / _UNET, plan)
        weights = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in load_file(path).items()
        }
        unet.load_state_dict(weights, assign=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: {first_line(error)}; expected the weights of the narrow U-Net that its"
            f" config.json and {PLAN} say; copy it or export again"
        ) from error
    return {_UNET: unet.eval()}


def hollow_unet(folder: Path, plan: WidthPlan | None) -> UNet2DConditionModel:
    """The U-Net of a component's folder without its weights, which are to be assigned."""
    config = UNet2DConditionModel.load_config(folder, local_files_only=True)
    with init_empty_weights(include_buffers=False):
        if plan is not None:
            return empty_narrow(config, plan)
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(config)
    return unet


def narrow_from_hub(repository: str, *, revision: str | None) -> Path | None:
    """The cache's folder with the narrow U-Net of a repository; None where it has none, or cannot
    be had.
    """
    wanted = [f"{_UNET}/{file}" for file in (NARROW, PLAN, "config.json")]
    try:
        found = hub_folder(HubAddress(repository, revision), wanted, of=f"model {repository}")
    except InputError:
        return None
    return found if (found / _UNET / NARROW).is_file() else None


def write_plan(folder: Path, plan: WidthPlan) -> None:
    """Say in a U-Net's folder what it was cut to."""
    (folder / PLAN).write_text(plan.to_json() + "\n")


def write_unet(
    unet: UNet2DConditionModel, folder: Path, plan: WidthPlan, *, dtype: torch.dtype
) -> None:
    """Write config, plan and weights of a narrow U-Net into its component's folder."""
    folder.mkdir(exist_ok=True)
    unet.save_config(folder)
    write_plan(folder, plan)
    weights: Mapping[str, torch.Tensor] = unet.state_dict()
    save_file(
        {
            name: tensor.detach()
            .to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
            .contiguous()
            for name, tensor in weights.items()
        },
        folder / NARROW,
        metadata={"format": "pt"},
    )


def write_pipeline(pipeline: StableDiffusionPipeline, folder: Path, plan: WidthPlan) -> None:
    """Write a pipeline whose U-Net is narrow, in fp32; everything else of it is stock."""
    for name, component in pipeline.components.items():
        if name == _UNET:
            write_unet(component, folder / name, plan, dtype=torch.float32)
        elif component is not None:
            component.save_pretrained(folder / name)
    pipeline.save_config(folder)
