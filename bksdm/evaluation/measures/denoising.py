"""Denoising loss: mean squared error to epsilon or v, whole and by timestep.

Deterministic and cheap. A good alarm within one recipe; across pruning patterns it does not predict
the quality after training (docs/evaluation.md).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from torch import Tensor

from bksdm import expected
from bksdm.data.shapes import samples
from bksdm.data.transforms import pixel_tensor
from bksdm.diffusion import Diffusion, sample_randomness
from bksdm.errors import InputError
from bksdm.evaluation.measure import Pictures, Subject
from bksdm.evaluation.measures.per_prompt import PerPrompt, mean_score, share
from bksdm.evaluation.score import Better, Items, Score
from bksdm.export.mixture_pipeline import taking_prompts

NAME: Final = "denoising loss"
BINS: Final = 10  # of the curve over timesteps
# Pictures of the shapes world that no training or validation shard has.
SHAPES_SEED: Final = 7_000_000
_BATCH: Final = 128
# Seeds of prompts are neighbours. The first draw has another seed than its prompt, too: that one
# gives the noise that the picture was made of, a place further, on which networks do far better.
_BETWEEN_DRAWS: Final = 1_000_003
_NO_LATENTS: Final = (
    "denoising loss without data is of the baseline's latents; expected a baseline= and a protocol"
    " with latents: true"
)


@torch.no_grad()
def encode_texts(pipeline: StableDiffusionPipeline, texts: Sequence[str]) -> Tensor:
    """Text states (B, T, D), padded as in training."""
    ids = pipeline.tokenizer(
        list(texts), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    states: Tensor = pipeline.text_encoder(input_ids=ids.to(pipeline.device)).last_hidden_state
    return states


@torch.no_grad()
def denoising_errors(
    pipeline: StableDiffusionPipeline, latents: Tensor, texts: Sequence[str], seeds: Tensor
) -> tuple[Tensor, Tensor]:
    """The squared error of each row, each at a timestep and with noise of its own seed.

    Args:
        pipeline: its U-Net answers.
        latents: clean and scaled, (B, C, h, w).
        texts: B captions.
        seeds: (B,).

    Returns:
        Timesteps (B,) and errors (B,), float64, on the CPU.
    """
    diffusion = Diffusion.from_scheduler_config(dict(pipeline.scheduler.config))
    timesteps, noise, _ = sample_randomness(seeds, latents.shape[1:], steps=diffusion.steps)
    clean, noise = latents.to(pipeline.device), noise.to(pipeline.device)
    at = timesteps.to(pipeline.device)
    noisy = diffusion.noised(clean, noise, at)
    states = encode_texts(pipeline, texts)
    with taking_prompts(pipeline, texts):
        guess = pipeline.unet(noisy.to(pipeline.unet.dtype), at, states).sample.float()
    error = F.mse_loss(guess, diffusion.target(clean, noise, at), reduction="none")
    return timesteps, error.flatten(1).mean(1).double().cpu()


def shapes_denoising_errors(
    pipeline: StableDiffusionPipeline, count: int, *, part: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """`denoising_errors` on fresh pictures of the embedded world.

    Args:
        pipeline: its U-Net answers.
        count: pictures in all.
        part: those of them that are asked for, N; at least one.

    Returns:
        Timesteps and errors, (N,).
    """
    scenes, images = zip(*list(samples(count, seed=SHAPES_SEED))[part], strict=True)
    side = int(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)
    pixels = torch.stack([pixel_tensor(image, resolution=side, flip=False) for image in images])
    texts = [scene.caption for scene in scenes]
    seeds = torch.arange(count)[part] + SHAPES_SEED
    found = []
    for start in range(0, len(texts), _BATCH):
        rows = slice(start, start + _BATCH)
        with torch.no_grad():
            moments = pipeline.vae.encode(pixels[rows].to(pipeline.device, pipeline.vae.dtype))
        latents = moments.latent_dist.mean.float() * pipeline.vae.config.scaling_factor
        found.append(denoising_errors(pipeline, latents, texts[rows], seeds[rows]))
    timesteps, errors = (torch.cat(part) for part in zip(*found, strict=True))
    return timesteps, errors


def by_timestep(timesteps: Tensor, errors: Tensor, *, steps: int) -> list[list[float]]:
    """[middle of the bin, mean error] of each of ten equal ranges of timesteps that has any."""
    bins = timesteps * BINS // steps
    width = steps / BINS
    return [
        [(each + 0.5) * width, errors[bins == each].mean().item()]
        for each in range(BINS)
        if (bins == each).any()
    ]


@dataclass(frozen=True, kw_only=True)
class ShapesDenoisingLoss:
    """Denoising loss on `count` fresh pictures of the embedded world."""

    count: int

    def __post_init__(self) -> None:
        expected.count("denoising loss: count", self.count, least=2)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (NAME,)

    def begin(self, subject: Subject) -> "_OnShapes":
        """Nothing to load."""
        return _OnShapes(subject, self.count)


@dataclass(frozen=True, kw_only=True)
class DenoisingLoss:
    """Denoising loss on the baseline's final latents of the same prompts: needs no data.

    Attributes:
        draws: timesteps and noises a prompt.
    """

    draws: int = 1

    needs_latents: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expected.count("denoising loss: draws", self.draws, least=1)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (NAME,)

    def begin(self, subject: Subject) -> "_OnBaseline":
        """Nothing to load.

        Raises:
            InputError: there is no baseline.
        """
        if not subject.compared:
            raise InputError(_NO_LATENTS)
        return _OnBaseline(subject, self.draws)


class _Errors:
    """Errors with the timesteps that they were made at."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.errors, self.timesteps = PerPrompt(), PerPrompt()

    def update(self, ids: Sequence[str], timesteps: Tensor, errors: Tensor) -> None:
        self.errors.update(ids, errors)
        self.timesteps.update(ids, timesteps)

    def gathered(self) -> tuple[Items, list[list[float]]]:
        """The errors of all processes, which call it together, and their curve over timesteps."""
        items, at = self.errors.items(), torch.tensor(self.timesteps.items().values).long()
        errors = torch.tensor(items.values, dtype=torch.float64)
        return items, by_timestep(at, errors, steps=self.steps)


class _OnShapes:
    def __init__(self, subject: Subject, count: int) -> None:
        self.subject, self.count = subject, count

    def update(self, pictures: Pictures) -> None:
        """The model's own pictures are not asked."""

    def scores(self) -> Sequence[Score]:
        """Of all pictures; each process measures its share of them."""
        found, part = _Errors(_steps(self.subject)), share()
        ids = [f"picture-{i:06d}" for i in range(self.count)][part]
        if ids:
            pipeline = self.subject.pipeline
            found.update(ids, *shapes_denoising_errors(pipeline, self.count, part=part))
        items, curve = found.gathered()
        of = f"{self.count} fresh pictures of the shapes world"
        return [mean_score(NAME, Better.LOWER, items, details={"of": of, "by timestep": curve})]


class _OnBaseline:
    def __init__(self, subject: Subject, draws: int) -> None:
        self.subject, self.draws = subject, draws
        self.found = _Errors(_steps(subject))

    def update(self, pictures: Pictures) -> None:
        """One U-Net call a draw."""
        if pictures.baseline is None or pictures.baseline.latents is None:
            raise InputError(_NO_LATENTS)
        texts = [prompt.text for prompt in pictures.prompts]
        seeds = torch.tensor([prompt.seed for prompt in pictures.prompts])
        for draw in range(1, self.draws + 1):
            timesteps, errors = denoising_errors(
                self.subject.pipeline,
                pictures.baseline.latents,
                texts,
                seeds + draw * _BETWEEN_DRAWS,
            )
            ids = [f"{prompt.id}/{draw}" for prompt in pictures.prompts]
            self.found.update(ids, timesteps, errors)

    def scores(self) -> Sequence[Score]:
        """Of all processes' prompts."""
        items, curve = self.found.gathered()
        # The draws of one prompt are no independent items.
        by_prompt: dict[str, list[float]] = defaultdict(list)
        for name, value in zip(items.ids, items.values, strict=True):
            by_prompt[name.rpartition("/")[0]].append(value)
        means = Items(tuple(by_prompt), tuple(sum(each) / len(each) for each in by_prompt.values()))
        details = {"of": "the baseline's final latents", "by timestep": curve}
        return [mean_score(NAME, Better.LOWER, means, details=details)]


def _steps(subject: Subject) -> int:
    return len(subject.pipeline.scheduler.alphas_cumprod)
