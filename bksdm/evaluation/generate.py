"""Generation as an iterator: one seed a prompt, so that an image does not depend on batch size,
order or process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from bksdm.errors import InputError
from bksdm.evaluation.prompts import Prompt


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are sampled: solver steps, classifier-free guidance scale, prompts at once."""

    steps: int
    guidance: float
    batch_size: int

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise InputError(
                f"sampling steps={self.steps}, batch_size={self.batch_size}: both must be at"
                " least 1"
            )


@dataclass(frozen=True)
class Generated:
    """An image: its prompt, final latents (C, h, w) and pixels, uint8 (3, H, W)."""

    prompt: Prompt
    latents: Tensor
    pixels: Tensor


@torch.no_grad()
def generate(
    pipeline: StableDiffusionPipeline, prompts: Sequence[Prompt], sampling: Sampling
) -> Iterator[Generated]:
    """Images of the prompts, in their order."""
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    for start in range(0, len(prompts), sampling.batch_size):
        chunk = prompts[start : start + sampling.batch_size]
        latents = pipeline(
            [prompt.text for prompt in chunk],
            height=size,
            width=size,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=[torch.Generator().manual_seed(prompt.seed) for prompt in chunk],
            output_type="latent",
        ).images
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
        for row in zip(chunk, latents.cpu(), pixels, strict=True):
            yield Generated(*row)


def to_image(pixels: Tensor) -> Image.Image:
    """uint8 pixels (3, H, W) as a picture."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def write_png(item: Generated, folder: Path) -> Path:
    """Write one image as <prompt id>.png."""
    path = folder / f"{item.prompt.id}.png"
    to_image(item.pixels).save(path)
    return path
