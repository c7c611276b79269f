"""The embedded U-Net: four stages of two resnets, so that Base, Small and Tiny mean what they mean
for SD-1.4.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .fit import fit
from .pictures import pictures, scaled
from .text import tokens

# With SD's beta_end of 0.012 some signal is left at the last timestep and the background leaks into
# it; with v-prediction the noise-free end is learnt much faster (shared prototype).
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}
CAPTION_DROPOUT = 0.1
# Composition is decided at high noise, and the outer layers without attention learn it later than
# the details.
TIMESTEP_SHIFT = 0.5


@dataclass(frozen=True)
class Layout:
    """Widths of the four stages, and which of them attend to the text."""

    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    heads: int = 4


STABLE_DIFFUSION = Layout((32, 64, 96, 96), (True, True, True, False))


def build(layout: Layout, *, text_width: int) -> UNet2DConditionModel:
    """An untrained U-Net."""
    torch.manual_seed(0)
    down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in layout.attention)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(layout.attention))
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=layout.channels,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=2,
        cross_attention_dim=text_width,
        attention_head_dim=layout.heads,
        norm_num_groups=8,
    )


@dataclass(frozen=True)
class Cache:
    """Latents (N, 4, 8, 8), and text states (M, T, D) of the unique captions; the last of them is
    the empty caption's.
    """

    latents: Tensor
    states: Tensor
    caption_of: Tensor


@torch.no_grad()
def encode(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    encoder: CLIPTextModel,
    *,
    count: int,
    seed: int,
    held_out: bool = False,
) -> Cache:
    """Draw `count` samples and encode pictures and captions."""
    scenes, pixels = pictures(count, seed=seed, held_out=held_out)
    latents = [vae.encode(scaled(chunk)).latent_dist.mode() for chunk in pixels.split(256)]
    unique = {
        caption: i for i, caption in enumerate(dict.fromkeys(scene.caption for scene in scenes))
    }
    ids = tokens(tokenizer, [*unique, ""])
    states = torch.cat([encoder(input_ids=chunk).last_hidden_state for chunk in ids.split(1024)])
    caption_of = torch.tensor([unique[scene.caption] for scene in scenes])
    return Cache(torch.cat(latents) * vae.config.scaling_factor, states, caption_of)


def denoising_loss(
    unet: UNet2DConditionModel, cache: Cache, rng: torch.Generator, *, batch: int
) -> Tensor:
    """Mean squared error of v; timesteps logit-normal, a tenth of the captions empty."""
    index = torch.randint(len(cache.latents), (batch,), generator=rng)
    timesteps = (
        torch.sigmoid(TIMESTEP_SHIFT + torch.randn(batch, generator=rng))
        * SCHEDULE["num_train_timesteps"]
    ).long()
    captions = cache.caption_of[index]
    captions = torch.where(
        torch.rand(batch, generator=rng) < CAPTION_DROPOUT, len(cache.states) - 1, captions
    )
    return _loss(unet, cache.latents[index], cache.states[captions], timesteps, rng)


@torch.no_grad()
def validation_loss(unet: UNet2DConditionModel, cache: Cache) -> float:
    """Mean squared error of v over the cache, at timesteps spread evenly, with fixed noise."""
    rng = torch.Generator().manual_seed(0)
    timesteps = torch.arange(len(cache.latents)) * 997 % SCHEDULE["num_train_timesteps"]
    losses = [
        _loss(unet, cache.latents[i], cache.states[cache.caption_of[i]], timesteps[i], rng)
        for i in torch.arange(len(cache.latents)).split(256)
    ]
    return torch.stack(losses).mean().item()


def _loss(
    unet: UNet2DConditionModel,
    latents: Tensor,
    states: Tensor,
    timesteps: Tensor,
    rng: torch.Generator,
) -> Tensor:
    noise_schedule = DDPMScheduler(**SCHEDULE)
    noise = torch.randn(latents.shape, generator=rng)
    noisy = noise_schedule.add_noise(latents, noise, timesteps)
    target = noise_schedule.get_velocity(latents, noise, timesteps)
    inputs = (part.to(unet.device) for part in (noisy, timesteps, states))
    return F.mse_loss(unet(*inputs).sample, target.to(unet.device))


def train(
    work: Path,
    cache: Cache,
    layout: Layout,
    *,
    steps: int,
    batch: int,
    lr: float,
    name: str = "unet",
    device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
) -> UNet2DConditionModel:
    """Train on the cache, resumably; returns the exponential moving average."""
    unet = build(layout, text_width=cache.states.shape[-1]).to(device)
    return fit(
        unet,
        lambda rng: denoising_loss(unet, cache, rng, batch=batch),
        steps=steps,
        lr=lr,
        state=work / f"{name}.pt",
        ema_decay=0.998,
    )
