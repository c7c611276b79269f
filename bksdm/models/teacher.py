"""Load and freeze a teacher: the parts of a Stable Diffusion pipeline that a distillation needs.

Knows diffusers' and transformers' folder layout. Knows nothing of plans, losses or training.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bksdm.errors import InputError
from bksdm.models.hub import first_line
from bksdm.models.source import NARROW, PACKED, TeacherSource, checked_unet_config, embedded_folder


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher. Deliberately no nn.Module: it must never be registered in one (parameters,
    EMA, checkpoint).
    """

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

    def with_text(self, own: CLIPTextModel | None) -> "Teacher":
        """The same with another text encoder, which is frozen, too; None changes nothing."""
        return self if own is None else replace(self, text_encoder=own)

    @property
    def latent_factor(self) -> int:
        """Pixels a latent, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def picture_size(self) -> int:
        """Pixels of a side that the U-Net was made for."""
        return int(self.unet.config.sample_size * self.latent_factor)

    def encoders_to(self, device: torch.device, *, dtype: torch.dtype) -> None:
        """Move VAE and text encoder alone, in place: who only encodes has no room for a U-Net."""
        for module in (self.vae, self.text_encoder):
            module.to(device=device, dtype=dtype)

    def moments_shape(self, resolution: int) -> tuple[int, int, int]:
        """(2 C, h, w) of the moments of a picture of `resolution` pixels a side."""
        side = resolution // self.latent_factor
        return (2 * self.vae.config.latent_channels, side, side)

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) -> text states (B, T, D)."""
        states: Tensor = self.text_encoder(input_ids=tokens).last_hidden_state
        return states

    @torch.no_grad()
    def encode_moments(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] -> mean and log variance of latents (B, 2 C, h, w)."""
        moments: Tensor = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.parameters
        return moments

    def scaled_latents(self, moments: Tensor, *, noise: Tensor | None) -> Tensor:
        """Moments (B, 2 C, h, w) -> scaled latents (B, C, h, w), sampled with `noise`, or the mean
        if None.
        """
        mean, log_variance = moments.chunk(2, dim=1)
        if noise is not None:  # the bounds are AutoencoderKL's own
            mean = mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise.to(mean)
        factor: float = self.vae.config.scaling_factor
        return mean * factor


def weights_hash(module: nn.Module) -> str:
    """Hash of a module's parameters and buffers, as they are now."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def load_teacher(source: TeacherSource) -> Teacher:
    """Load all parts in fp32 on the CPU, frozen, in eval mode.

    Raises:
        InputError: something is missing, gated, or not what a block-removal distillation can use.
    """
    teacher = _random_teacher(source) if source.weights == "random" else _pretrained_teacher(source)
    channels = teacher.vae.config.latent_channels
    if teacher.unet.config.in_channels != channels:
        raise InputError(
            f"teacher {source.path}: the U-Net takes {teacher.unet.config.in_channels} channels but"
            f" the VAE makes {channels}; expected a text-to-image model whose VAE and U-Net belong"
            " together"
        )
    if getattr(teacher.vae.config, "shift_factor", None):
        raise InputError(
            f"teacher {source.path}: its VAE shifts latents"
            f" (shift_factor={teacher.vae.config.shift_factor}), which stock Stable Diffusion"
            " pipelines do not undo; expected a VAE with only a scaling_factor"
        )
    width, expected = (
        teacher.text_encoder.config.hidden_size,
        teacher.unet.config.cross_attention_dim,
    )
    if width != expected:
        raise InputError(
            f"teacher {source.path}: text states have width {width}, but the U-Net attends to"
            f" {expected}"
        )
    return teacher


def load_tokenizer(source: TeacherSource) -> CLIPTokenizer:
    """The tokenizer alone.

    Raises:
        InputError: it is not there.
    """
    if source.weights == "random":
        return _random_tokenizer(source)
    try:
        return CLIPTokenizer.from_pretrained(
            source.location, subfolder="tokenizer", revision=source.revision
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"teacher {source.path}: {first_line(error)}; expected a complete diffusers folder"
        ) from error


def _pretrained_teacher(source: TeacherSource) -> Teacher:
    _refuse_unstock(source)
    checked_unet_config(source)  # says clearly what is wrong, before anything large is read
    place: dict[str, Any] = {
        "pretrained_model_name_or_path": source.location,
        "revision": source.revision,
    }
    try:
        return Teacher(
            source=source,
            unet=UNet2DConditionModel.from_pretrained(
                subfolder="unet", dtype=torch.float32, **place
            ),
            vae=AutoencoderKL.from_pretrained(subfolder="vae", dtype=torch.float32, **place),
            text_encoder=CLIPTextModel.from_pretrained(
                subfolder="text_encoder", dtype=torch.float32, **place
            ),
            tokenizer=CLIPTokenizer.from_pretrained(subfolder="tokenizer", **place),
            scheduler=load_scheduler(**place),
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"teacher {source.path}: {first_line(error)}; expected a complete diffusers folder"
        ) from error


def _refuse_unstock(source: TeacherSource) -> None:
    folder = Path(source.location)
    if any((folder / part / PACKED).is_file() for part in ("unet", "text_encoder")):
        raise InputError(
            f"teacher {source.path}: its weights are packed; expected a stock folder, which"
            f" `bksdm export packed={source.path} out=FOLDER` writes"
        )
    if (folder / "unet" / NARROW).is_file():
        raise InputError(
            f"teacher {source.path}: its U-Net is narrow, an expert of `bksdm route`; expected a"
            " stock folder, which `bksdm export run=RUN export.masked=true out=FOLDER` writes"
        )


def load_scheduler(
    pretrained_model_name_or_path: str | Path, *, revision: str | None = None
) -> SchedulerMixin:
    """The scheduler of a diffusers folder or repository, of the class that it names.

    Raises:
        InputError: diffusers has no such class.
        OSError: there is none.
    """
    config, _ = DDPMScheduler.load_config(
        pretrained_model_name_or_path,
        return_unused_kwargs=True,
        subfolder="scheduler",
        revision=revision,
    )
    kind = getattr(diffusers, config.get("_class_name", ""), None)
    if kind is None:
        raise InputError(
            f"unknown scheduler class {config.get('_class_name')!r} in"
            f" {pretrained_model_name_or_path}"
        )
    scheduler: SchedulerMixin = kind.from_config(config)
    return scheduler


def _random_teacher(source: TeacherSource) -> Teacher:
    assert source.architecture is not None
    parts = {name: dict(config) for name, config in source.architecture.items()}
    torch.manual_seed(0)
    return Teacher(
        source=source,
        unet=UNet2DConditionModel.from_config(parts["unet"]),
        vae=AutoencoderKL.from_config(parts["vae"]),
        text_encoder=CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])),
        tokenizer=_random_tokenizer(source),
        scheduler=DDPMScheduler.from_config(parts["scheduler"]),
    )


def _random_tokenizer(source: TeacherSource) -> CLIPTokenizer:
    assert source.architecture is not None
    return CLIPTokenizer.from_pretrained(
        str(embedded_folder("shapes") / "tokenizer"),
        model_max_length=source.architecture["text_encoder"]["max_position_embeddings"],
    )
