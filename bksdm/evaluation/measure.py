"""What a measure is: settings that begin a one-pass accumulation over a model's pictures.

    settings (frozen, from the protocol's config)  --begin-->  Measuring
    for each batch of pictures: measuring.update(pictures)
    measuring.scores()                             scores of the pictures of all processes

State is held in float64 and its size does not depend on the number of pictures, but for features
where a metric needs them all (KID). Implementations keep it in `torchmetrics` metrics, which reduce
it over the processes themselves when they compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.prompts import Prompt
from bksdm.evaluation.score import Score


@dataclass(frozen=True)
class Pictures:
    """N pictures of one model as the protocol keeps them, after its JPEG and resize.

    Attributes:
        prompts: N, in the order of the rows.
        pixels: uint8 (N, 3, H, W), RGB.
        latents: final latents of the sampler (N, C, h, w), float32; None if none are kept.
        baseline: the baseline's pictures of the same prompts; its own for the baseline itself; None
            without a baseline.
    """

    prompts: tuple[Prompt, ...]
    pixels: Tensor
    latents: Tensor | None = None
    baseline: "Pictures | None" = None


@dataclass(frozen=True)
class Subject:
    """The model that is measured.

    Attributes:
        pipeline: it, on its device.
        device: where measures' networks go.
        keeping: what happened to its pictures; reference pictures go through the same.
        compared: whether a baseline's pictures come along.
    """

    pipeline: StableDiffusionPipeline
    device: torch.device
    keeping: Keeping = field(default_factory=Keeping)
    compared: bool = True


class Measuring(Protocol):
    """A measure under way."""

    def update(self, pictures: Pictures) -> None:
        """Take in N pictures."""

    def scores(self) -> Sequence[Score]:
        """The scores of all pictures of all processes; all processes call it together."""


class Measure(Protocol):
    """Settings of a measure: a frozen dataclass that a protocol's config names by `_target_`.

    One that asks for latents says so by a class attribute, `needs_latents = True`.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Of its scores; one for which nothing is there to measure may be left out."""

    def begin(self, subject: Subject) -> Measuring:
        """Load what it needs, before any picture is made.

        Raises:
            InputError: a file is missing (named, with how to get it), or the model cannot be
                measured so.
        """
