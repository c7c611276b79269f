"""Generation as an iterator: one seed a prompt, so that an image does not depend on batch size,
order or process (but for the float rounding of another batch size).
"""

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from torch import Tensor

from bksdm import expected
from bksdm.errors import InputError
from bksdm.evaluation.prompts import Prompt


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are sampled.

    Attributes:
        steps: of the solver. PNDM calls the U-Net once more.
        guidance: classifier-free guidance scale; up to 1 is none.
        batch_size: prompts at once.
        scheduler: a diffusers class, such as "PNDMScheduler"; None is the pipeline's own.
        scheduler_settings: what that class is to be set to; the rest is the pipeline's. None is
            nothing.
        size: pixels a side; None is what the U-Net was made for.
        dtype: "float16" or "bfloat16" casts the networks; None leaves them as they are.
    """

    steps: int
    guidance: float
    batch_size: int
    scheduler: str | None = None
    scheduler_settings: Mapping[str, Any] | None = field(default_factory=dict)
    size: int | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        expected.count("sampling.steps", self.steps, least=1)
        expected.count("sampling.batch_size", self.batch_size, least=1)
        expected.number("sampling.guidance", self.guidance, least=0)
        if self.size is not None:
            expected.count("sampling.size", self.size, least=8)
            if self.size % 8:
                raise InputError(f"sampling.size={self.size}: expected a multiple of 8")
        if self.dtype is not None:
            expected.one_of("sampling.dtype", self.dtype, ("float16", "bfloat16", "float32"))
        if self.scheduler is not None:
            known = inspect.signature(self._scheduler_class().__init__).parameters
            for name in self.scheduler_settings or {}:
                expected.one_of("sampling.scheduler_settings", name, tuple(known)[1:])
        elif self.scheduler_settings:
            raise InputError(
                f"sampling.scheduler_settings={dict(self.scheduler_settings)}: expected"
                " sampling.scheduler, too, which they are of"
            )

    def _scheduler_class(self) -> type[SchedulerMixin]:
        kind = getattr(diffusers, str(self.scheduler), None)
        if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
            raise InputError(
                f"sampling.scheduler={self.scheduler}: expected a scheduler class of diffusers,"
                " such as PNDMScheduler or DPMSolverMultistepScheduler"
            )
        return kind

    def prepared(self, pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
        """The pipeline with the scheduler and the precision of this sampling; networks are shared
        with the one given, and cast in place.
        """
        if self.dtype is not None:
            pipeline.to(dtype=getattr(torch, self.dtype))
        if self.scheduler is None:
            return pipeline
        scheduler = self._scheduler_class().from_config(
            pipeline.scheduler.config, **(self.scheduler_settings or {})
        )
        made = copy.copy(pipeline)  # of whatever class: a mixture stays one
        made.register_modules(scheduler=scheduler)
        return made

    def pixels(self, pipeline: StableDiffusionPipeline) -> int:
        """Side of the pictures."""
        return self.size or int(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)


@dataclass(frozen=True)
class Generated:
    """An image.

    Attributes:
        prompt: its.
        latents: the sampler's last, float32 (C, h, w).
        pixels: uint8 (3, H, W).
        finite: whether all of its values were numbers before they became pixels; half precision
            may overflow, and what is no number becomes black.
    """

    prompt: Prompt
    latents: Tensor
    pixels: Tensor
    finite: bool = True


@torch.no_grad()
def generate(
    pipeline: StableDiffusionPipeline, prompts: Sequence[Prompt], sampling: Sampling
) -> Iterator[Generated]:
    """Images of the prompts, in their order, of a pipeline that is `prepared`."""
    size = sampling.pixels(pipeline)
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
        finite = (decoded.isfinite().flatten(1).all(1) & latents.isfinite().flatten(1).all(1)).cpu()
        pixels = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
        rows = zip(chunk, latents.float().cpu(), pixels, finite.tolist(), strict=True)
        for prompt, last, image, whole in rows:
            yield Generated(prompt, last, image, whole)
