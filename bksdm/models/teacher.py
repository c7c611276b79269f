"""Load and freeze a teacher: the parts of a Stable Diffusion pipeline that a distillation needs.

Knows diffusers' and transformers' folder layout. Knows nothing of plans, losses or training.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bksdm.errors import InputError

EMBEDDED: Final = "embedded:"


def embedded_folder(name: str) -> Path:
    """The folder of a teacher that the package carries."""
    return Path(str(files("bksdm.assets") / name))


@dataclass(frozen=True, kw_only=True)
class TeacherSource:
    """Where a teacher comes from.

    Attributes:
        name: short name, for run names and tables.
        path: a diffusers folder, a Hub id, or "embedded:NAME".
        revision: branch, tag or commit on the Hub.
        weights: "pretrained", or "random" for a dry run at real size (then `architecture` is needed, and the tokenizer
            is the embedded world's).
        architecture: configs of `unet`, `vae`, `text_encoder` and `scheduler` of a named teacher, so that plans and dry
            runs need no download.
    """

    name: str
    path: str
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.weights not in ("pretrained", "random"):
            raise InputError(f"teacher.weights={self.weights!r}: expected 'pretrained' or 'random'")
        if self.weights == "random" and self.architecture is None:
            raise InputError(f"teacher.weights=random needs a named teacher (sd14, sd15, ...), got {self.path!r}")

    @property
    def location(self) -> str:
        """What diffusers' and transformers' `from_pretrained` take."""
        if self.path.startswith(EMBEDDED):
            return str(embedded_folder(self.path.removeprefix(EMBEDDED)))
        return self.path

    @property
    def identity(self) -> dict[str, str | None]:
        """What a checkpoint remembers of its teacher, to be compared when it resumes."""
        return {"path": self.path, "revision": self.revision, "weights": self.weights}


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher. Deliberately no nn.Module: it must never be registered in one (parameters, EMA, checkpoint)."""

    source: TeacherSource
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: SchedulerMixin

    def __post_init__(self) -> None:
        for module in (self.unet, self.vae, self.text_encoder):
            module.requires_grad_(requires_grad=False).eval()

    def to(self, device: torch.device | str, *, dtype: torch.dtype | None = None) -> None:
        """Move the networks, in place."""
        for module in (self.unet, self.vae, self.text_encoder):
            module.to(device=device, dtype=dtype or module.dtype)

    @property
    def latent_factor(self) -> int:
        """Pixels a latent, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) -> text states (B, T, D)."""
        states: Tensor = self.text_encoder(input_ids=tokens).last_hidden_state
        return states

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor, *, noise: Tensor | None) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w), sampled with `noise`, or the mean if None."""
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        latents: Tensor = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.std)
        return latents * self.vae.config.scaling_factor


def unet_config(source: TeacherSource) -> dict[str, Any]:
    """Config of the teacher's U-Net; for a named teacher without touching disk or network.

    Raises:
        InputError: not there, or not a Stable Diffusion U-Net.
    """
    if source.architecture is not None:
        return _filled(source.architecture["unet"])
    return _filled(_read_unet_config(source))


def load_teacher(source: TeacherSource) -> Teacher:
    """Load all parts in fp32 on the CPU, frozen, in eval mode.

    Raises:
        InputError: something is missing, gated, or not what a block-removal distillation can use.
    """
    teacher = _random_teacher(source) if source.weights == "random" else _pretrained_teacher(source)
    channels = teacher.vae.config.latent_channels
    if teacher.unet.config.in_channels != channels:
        raise InputError(
            f"teacher {source.path}: the U-Net takes {teacher.unet.config.in_channels} channels but the VAE makes "
            f"{channels}; expected a text-to-image model whose VAE and U-Net belong together"
        )
    if getattr(teacher.vae.config, "shift_factor", None):
        raise InputError(
            f"teacher {source.path}: its VAE shifts latents (shift_factor={teacher.vae.config.shift_factor}), which "
            "stock Stable Diffusion pipelines do not undo; expected a VAE with only a scaling_factor"
        )
    width, expected = teacher.text_encoder.config.hidden_size, teacher.unet.config.cross_attention_dim
    if width != expected:
        raise InputError(f"teacher {source.path}: text states have width {width}, but the U-Net attends to {expected}")
    return teacher


def _pretrained_teacher(source: TeacherSource) -> Teacher:
    _filled(_read_unet_config(source))
    place: dict[str, Any] = {"pretrained_model_name_or_path": source.location, "revision": source.revision}
    try:
        return Teacher(
            source=source,
            unet=UNet2DConditionModel.from_pretrained(subfolder="unet", dtype=torch.float32, **place),
            vae=AutoencoderKL.from_pretrained(subfolder="vae", dtype=torch.float32, **place),
            text_encoder=CLIPTextModel.from_pretrained(subfolder="text_encoder", dtype=torch.float32, **place),
            tokenizer=CLIPTokenizer.from_pretrained(subfolder="tokenizer", **place),
            scheduler=_load_scheduler(place),
        )
    except (OSError, ValueError) as error:
        raise InputError(f"teacher {source.path}: {_first_line(error)}; expected a complete diffusers folder") from error


def _load_scheduler(place: dict[str, Any]) -> SchedulerMixin:
    config, _ = DDPMScheduler.load_config(return_unused_kwargs=True, subfolder="scheduler", **place)
    kind = getattr(diffusers, config.get("_class_name", ""), None)
    if kind is None:
        raise InputError(f"unknown scheduler class {config.get('_class_name')!r} in {place['pretrained_model_name_or_path']}")
    scheduler: SchedulerMixin = kind.from_config(config)
    return scheduler


def _random_teacher(source: TeacherSource) -> Teacher:
    assert source.architecture is not None
    parts = {name: dict(config) for name, config in source.architecture.items()}
    tokenizer = CLIPTokenizer.from_pretrained(
        str(embedded_folder("shapes") / "tokenizer"), model_max_length=parts["text_encoder"]["max_position_embeddings"]
    )
    torch.manual_seed(0)
    return Teacher(
        source=source,
        unet=UNet2DConditionModel.from_config(parts["unet"]),
        vae=AutoencoderKL.from_config(parts["vae"]),
        text_encoder=CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])),
        tokenizer=tokenizer,
        scheduler=DDPMScheduler.from_config(parts["scheduler"]),
    )


def _read_unet_config(source: TeacherSource) -> dict[str, Any]:
    folder = Path(source.location)
    if source.path.startswith(EMBEDDED) or folder.is_dir() or source.path.startswith((".", "/", "~")):
        path = folder / "unet" / "config.json"
        if not path.is_file():
            if (folder / "transformer" / "config.json").is_file():
                raise InputError(f"teacher {source.path} is a transformer, not a U-Net; expected a Stable Diffusion 1 or 2")
            raise InputError(f"teacher {source.path}: no {path}; expected a diffusers folder or a Hub id")
    else:
        path = Path(_download_unet_config(source))
    config: dict[str, Any] = json.loads(path.read_text())
    return config


def _download_unet_config(source: TeacherSource) -> str:
    try:
        return hf_hub_download(source.path, "unet/config.json", revision=source.revision)
    except GatedRepoError as error:
        raise InputError(
            f"teacher {source.path} is gated: accept its licence on the Hub, then log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"teacher {source.path}: no such repository on the Hub (or it is private: log in with `hf auth login`)"
        ) from error
    except EntryNotFoundError as error:
        raise InputError(
            f"teacher {source.path}: no unet/config.json, so not a U-Net pipeline, or neither cached nor reachable; "
            "expected a Stable Diffusion 1 or 2 in diffusers format"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"teacher {source.path}: neither a local folder nor reachable on the Hub ({_first_line(error)})"
        ) from error


def _filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with diffusers' defaults filled in; refuses what no block plan can cut."""
    kind = config.get("_class_name", "UNet2DConditionModel")
    if kind != "UNet2DConditionModel":
        raise InputError(f"the teacher's denoiser is a {kind}; expected a UNet2DConditionModel")
    if config.get("addition_embed_type"):
        raise InputError("the teacher is an SDXL-like U-Net with added conditions; expected Stable Diffusion 1 or 2")
    with torch.device("meta"):
        filled = dict(UNet2DConditionModel.from_config(dict(config)).config)
    return {name: value for name, value in filled.items() if not name.startswith("_")}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
