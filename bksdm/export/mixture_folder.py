"""A mixture as one folder: router and experts, and once what all of them share.

mixture.json                              what it is; last of all, so that it is there whole
router/                                   weights and their meaning (`export.router`)
experts/<code>/unet/                      a narrow U-Net with its plan (`export.narrow`)
vae/ text_encoder/ tokenizer/ scheduler/  as in any diffusers folder
sampling.json                             which guidance suits it
analysis.json                             who gets what, if its router's run has looked
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from bksdm.errors import InputError
from bksdm.export.mixture_pipeline import MixturePipeline
from bksdm.export.mixture_unet import MixtureUnet
from bksdm.export.narrow import PLAN, hollow_unet, narrow_networks, read_plan
from bksdm.export.router import SavedRouter, read_router
from bksdm.models.encoder import load_saved
from bksdm.models.hub import first_line
from bksdm.models.source import NARROW
from bksdm.models.teacher import load_scheduler, weights_hash

MIXTURE: Final = "mixture.json"
ROUTER: Final = "router"
EXPERTS: Final = "experts"
ANALYSIS: Final = "analysis.json"
IN_MEMORY: Final = 2
_FORMAT: Final = 1
_AGAIN: Final = "export the mixture again"


@dataclass(frozen=True, kw_only=True)
class ExpertRecord:
    """What a mixture says of an expert.

    Attributes:
        code: its number, which the router says.
        share: of the training prompts, 0 to 1.
        parameters: of its U-Net.
        macs: of one row of one call of its U-Net.
        step: optimiser steps that it was trained for.
        weights: hash of its U-Net's weights.
        plan: hash of its plan.
    """

    code: int
    share: float
    parameters: int
    macs: int
    step: int
    weights: str
    plan: str


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What `mixture.json` says.

    Attributes:
        teacher: identity of what the experts were cut from.
        experts: by code, ascending; a code to which no training prompt goes has none.
    """

    teacher: Mapping[str, Any]
    experts: tuple[ExpertRecord, ...]

    def expected(self, name: str) -> float:
        """Mean of "parameters" or "macs" over the prompts."""
        return sum(each.share * float(getattr(each, name)) for each in self.experts)

    @property
    def typical(self) -> int:
        """The code whose MACs are the nearest to the mean over the prompts."""
        mean = self.expected("macs")
        return min(self.experts, key=lambda each: abs(each.macs - mean)).code


def is_mixture(folder: Path) -> bool:
    """Whether a mixture lies there."""
    return (folder / MIXTURE).is_file()


def write_mixture_record(folder: Path, mixture: Mixture) -> None:
    """Say it in a folder."""
    text = json.dumps({"format": _FORMAT, **asdict(mixture)}, indent=1)
    (folder / MIXTURE).write_text(text + "\n")


def read_mixture_record(folder: Path) -> Mixture:
    """What a folder says of itself; every expert that it names is there.

    Raises:
        InputError: there is no mixture, of another version, or an expert is missing or has changed
            places.
    """
    path = folder / MIXTURE
    try:
        values = json.loads(path.read_text())
        if values.pop("format") != _FORMAT:
            raise ValueError("of another version")
        experts = tuple(ExpertRecord(**each) for each in values.pop("experts"))
        mixture = Mixture(experts=experts, **values)
        if not experts:
            raise ValueError("no experts")
    except FileNotFoundError:
        raise InputError(f"{folder}: no {MIXTURE}; expected a mixture") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not of this version of bksdm ({error}); {_AGAIN}") from error
    for each in mixture.experts:
        unet = expert_folder(folder, each.code) / "unet"
        missing = next((f for f in ("config.json", PLAN, NARROW) if not (unet / f).is_file()), None)
        if missing:
            raise InputError(
                f"mixture {folder}: expert {each.code} is missing ({unet / missing}); copy it there"
                f" again, or {_AGAIN}"
            )
        if plan_hash(read_plan(unet / PLAN).to_json()) != each.plan:
            raise InputError(
                f"mixture {folder}: {unet / PLAN} is not the plan of expert {each.code}; {_AGAIN}"
            )
    return mixture


def expert_folder(folder: Path, code: int) -> Path:
    """Where an expert's `unet/` lies."""
    return folder / EXPERTS / str(code)


def plan_hash(text: str) -> str:
    """Of a plan's JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_mixture(folder: Path, *, in_memory: int = IN_MEMORY) -> MixturePipeline:
    """The mixture as a pipeline, in fp32 on the CPU; experts are read when a prompt asks for them.

    Args:
        folder: of the mixture.
        in_memory: experts at once.

    Raises:
        InputError: something of it is missing, damaged or has changed.
    """
    mixture, saved = read_mixture_record(folder), read_router(folder / ROUTER)

    def load(code: int) -> UNet2DConditionModel:
        return _expert(folder, next(each for each in mixture.experts if each.code == code))

    first = expert_folder(folder, mixture.experts[0].code) / "unet"
    with torch.device("meta"):
        config = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(first)).config
    unet = MixtureUnet(config, load, in_memory=in_memory, typical=mixture.typical)
    pipeline = MixturePipeline(
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **_shared(folder),
    )
    pipeline.set_progress_bar_config(disable=True)
    encoder = load_saved(saved.encoder, pipeline)

    @cache
    def exact() -> CLIPTextModel:
        return _text_encoder(folder)

    def route(prompts: Sequence[str]) -> list[int]:
        reader = encoder
        own = pipeline.text_encoder
        if encoder.network is own and own.dtype != torch.float32:
            # Cast with its pipeline: but who draws a prompt depends on the prompt alone.
            reader = replace(encoder, network=exact().to(pipeline.device))
        codes: list[int] = saved.router.route(reader.embed(prompts).cpu()).tolist()
        return codes

    def shapes() -> list[tuple[float, UNet2DConditionModel]]:
        units = [
            (each.share, expert_folder(folder, each.code) / "unet") for each in mixture.experts
        ]
        return [(share, hollow_unet(unet, read_plan(unet / PLAN))) for share, unet in units]

    return pipeline.of_experts(route, weights=_weights(saved, mixture), shapes=shapes)


def _expert(folder: Path, record: ExpertRecord) -> UNet2DConditionModel:
    place = expert_folder(folder, record.code)
    unet: UNet2DConditionModel = narrow_networks(place)["unet"]
    if weights_hash(unet) != record.weights:
        raise InputError(
            f"mixture {folder}: {place / 'unet'} has other weights than expert {record.code} had;"
            f" {_AGAIN}"
        )
    return unet


def _shared(folder: Path) -> dict[str, Any]:
    try:
        return {
            "vae": AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32),
            "text_encoder": _text_encoder(folder),
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            "scheduler": load_scheduler(folder),
        }
    except (OSError, ValueError) as error:
        raise InputError(f"mixture {folder}: {first_line(error)}; {_AGAIN}") from error


def _text_encoder(folder: Path) -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()


def _weights(saved: SavedRouter, mixture: Mixture) -> str:
    """One hash of the router and of all experts."""
    digest = hashlib.sha256()
    for name, tensor in sorted(saved.router.state_dict().items()):
        digest.update(f"{name} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    for each in mixture.experts:
        digest.update(f"{each.code} {each.weights} {each.plan}\n".encode())
    return digest.hexdigest()[:16]
