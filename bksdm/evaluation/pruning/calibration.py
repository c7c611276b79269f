"""What a model's networks see while it makes pictures: calls to count their inputs on.

From prompts alone. The text encoder sees captions, padded as always. The U-Net sees the dense
model's own pictures of them, noised to timesteps spread evenly over the schedule, every second one
with the empty caption, as classifier-free guidance asks for it.

B samples, C latent channels, h w latent size, T tokens, D text width.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from bksdm import expected
from bksdm.diffusion import Diffusion
from bksdm.errors import InputError
from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.measures.denoising import encode_texts
from bksdm.evaluation.prompts import Prompt, PromptSource
from bksdm.surgery.sparse.statistics import CalibrationBatch

LEAST: Final = 8  # captions


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """What is calibrated on.

    Attributes:
        prompts: of calibration; others than pictures are judged by.
        sampling: how the dense model makes its pictures of them.
        draws: timesteps a picture.
        batch_size: samples a call.
    """

    prompts: PromptSource
    sampling: Sampling
    draws: int = 2
    batch_size: int = 64

    def __post_init__(self) -> None:
        expected.count("calibration.draws", self.draws, least=1)
        expected.count("calibration.batch_size", self.batch_size, least=1)
        if not hasattr(self.prompts, "read"):
            raise InputError(
                f"calibration.prompts={self.prompts}: expected their settings, as"
                " conf/calibration/*.yaml have them"
            )
        if self.sampling.dtype is not None:
            raise InputError(
                f"calibration.sampling.dtype={self.sampling.dtype}: it would cast the model that is"
                " pruned; expected null"
            )

    def read(self) -> list[Prompt]:
        """The prompts.

        Raises:
            InputError: there are too few to say anything.
        """
        found = self.prompts.read()
        if len(found) < LEAST:
            raise InputError(
                f"calibration has {len(found)} prompts; expected at least {LEAST}, better 128:"
                " raise calibration.prompts.count"
            )
        return found


@dataclass(frozen=True)
class Samples:
    """Noised latents of the dense model's pictures, on the CPU.

    Attributes:
        latents: x_t, (N, C, h, w).
        timesteps: (N,).
        texts: N, of which every second one is empty.
        steps: training timesteps of the schedule.
    """

    latents: Tensor
    timesteps: Tensor
    texts: tuple[str, ...]
    steps: int


def text_calls(
    pipeline: StableDiffusionPipeline, prompts: Iterable[Prompt], *, batch_size: int
) -> Iterator[CalibrationBatch]:
    """Calls of the text encoder on captions."""
    texts = [prompt.text for prompt in prompts]
    for start in range(0, len(texts), batch_size):
        ids = pipeline.tokenizer(
            texts[start : start + batch_size],
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        yield CalibrationBatch({"input_ids": ids.to(pipeline.device)})


@torch.no_grad()
def samples_of(
    pipeline: StableDiffusionPipeline, prompts: list[Prompt], settings: CalibrationSettings
) -> Samples:
    """The dense model's own pictures, noised: picture i's draw d to a timestep in the d-th of equal
    parts of the schedule, the same for the same seeds.
    """
    prepared = settings.sampling.prepared(pipeline)
    made = list(generate(prepared, prompts, settings.sampling))
    clean = torch.stack([each.latents for each in made]).repeat_interleave(settings.draws, 0)
    diffusion = Diffusion.from_scheduler_config(dict(pipeline.scheduler.config))
    rng = torch.Generator().manual_seed(prompts[0].seed)
    places = torch.rand(len(made), settings.draws, generator=rng) + torch.arange(settings.draws)
    timesteps = (places / settings.draws * diffusion.steps).long().flatten()
    noise = torch.randn(clean.shape, generator=rng)
    guided = settings.sampling.guidance > 1
    texts = [prompt.text for prompt in prompts for _ in range(settings.draws)]
    return Samples(
        latents=diffusion.noised(clean, noise, timesteps),
        timesteps=timesteps,
        # By picture, too, not by draw alone: or all empty captions would be at the same timesteps.
        texts=tuple(
            "" if guided and sum(divmod(i, settings.draws)) % 2 else text
            for i, text in enumerate(texts)
        ),
        steps=diffusion.steps,
    )


def unet_calls(
    pipeline: StableDiffusionPipeline, samples: Samples, *, batch_size: int
) -> Iterator[CalibrationBatch]:
    """Calls of the U-Net, with the text states of the pipeline's text encoder as it is now."""
    device, dtype = pipeline.device, pipeline.unet.dtype
    for start in range(0, len(samples.texts), batch_size):
        rows = slice(start, start + batch_size)
        at = samples.timesteps[rows].to(device)
        call = {
            "sample": samples.latents[rows].to(device, dtype),
            "timestep": at,
            "encoder_hidden_states": encode_texts(pipeline, samples.texts[rows]),
        }
        yield CalibrationBatch(call, progress=1 - at / samples.steps)
