"""The protocol of the embedded world: attribute accuracy, latent distance to the teacher, denoising
loss, cost.

Needs no reference images and no download. What it says is true of the shapes world only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from scipy.stats import binomtest
from torch import Tensor

from bksdm.data.shapes import samples
from bksdm.data.transforms import pixel_tensor
from bksdm.diffusion import Diffusion, sample_randomness
from bksdm.evaluation.attributes import ATTRIBUTES, OutlineNet, attribute_scores
from bksdm.evaluation.generate import Generated, Sampling, generate
from bksdm.evaluation.latency import LatencyRatio, latency_ratio
from bksdm.evaluation.prompts import shapes_prompts
from bksdm.models.cost import Cost, unet_cost
from bksdm.models.source import embedded_folder

LOSS_SEED = 7_000_000  # pictures of the denoising loss: no training or validation shard has them


@dataclass(frozen=True, kw_only=True)
class ShapesProtocol:
    """What is measured on how many prompts.

    Attributes:
        prompts: captions of the training grammar.
        held_out: captions with a (shape, colour) pair that no training picture has; 0 to skip.
        seed: of prompts and images.
        sampling: how images are made.
        loss_samples: pictures of the denoising loss.
    """

    prompts: int
    held_out: int
    seed: int
    sampling: Sampling
    loss_samples: int


@dataclass(frozen=True)
class Share:
    """A share of n prompts with its 95 % interval (Wilson's)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ShapesResult:
    """Scores of one model; `accuracy` by attribute, and "all" by kind of prompt."""

    model: str
    accuracy: dict[str, Share]
    latent_mse: float | None
    denoising_loss: float
    cost: Cost
    latency: LatencyRatio | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def load_outline_net() -> OutlineNet:
    """The embedded scoring network."""
    net = OutlineNet()
    net.load_state_dict(load_file(embedded_folder("shapes") / "outline.safetensors"))
    return net.eval()


def evaluate_shapes(
    pipeline: StableDiffusionPipeline,
    protocol: ShapesProtocol,
    *,
    name: str,
    teacher: "Reference | None" = None,
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[ShapesResult, "Reference"]:
    """Generate and score; `advance` is told the number of finished images.

    Returns:
        The scores, and what the next model's can be compared with.
    """
    prompts = shapes_prompts(protocol.prompts, seed=protocol.seed)
    unseen = shapes_prompts(protocol.held_out, seed=protocol.seed, held_out=True)
    images: list[Generated] = []
    for image in generate(pipeline, prompts + unseen, protocol.sampling):
        images.append(image)
        advance(1)
    latents = torch.stack([image.latents for image in images])
    result = ShapesResult(
        model=name,
        accuracy=_accuracy(images[: len(prompts)], images[len(prompts) :]),
        latent_mse=None if teacher is None else F.mse_loss(latents, teacher.latents).item(),
        denoising_loss=denoising_loss(pipeline, count=protocol.loss_samples),
        cost=unet_cost(pipeline.unet.config, tokens=pipeline.tokenizer.model_max_length),
        latency=None if teacher is None else latency_ratio(pipeline.unet, teacher.pipeline.unet),
    )
    return result, Reference(pipeline, latents)


@dataclass(frozen=True)
class Reference:
    """A pipeline and the latents that it made of a protocol's prompts."""

    pipeline: StableDiffusionPipeline
    latents: Tensor


def _accuracy(images: Sequence[Generated], unseen: Sequence[Generated]) -> dict[str, Share]:
    net = load_outline_net()
    scores = _scores(images, net)
    shares = {name: _mean_share(scores[name]) for name in ATTRIBUTES}
    two = ~scores["relation"].isnan()
    shares["one object"], shares["two objects"] = (
        share(scores["all"][~two]),
        share(scores["all"][two]),
    )
    if unseen:
        shares["held out"] = share(_scores(unseen, net)["all"])
    return shares


def _scores(images: Sequence[Generated], net: OutlineNet) -> dict[str, Tensor]:
    pixels = torch.stack([image.pixels for image in images])
    return attribute_scores(pixels, [image.prompt.text for image in images], net)


def share(right: Tensor) -> Share:
    """The share of ones in a vector of zeros and ones (its sum may be fractional, see
    `_mean_share`).
    """
    n = len(right)
    if n == 0:
        return Share(math.nan, math.nan, math.nan, 0)
    interval = binomtest(round(right.sum().item()), n).proportion_ci(method="wilson")
    return Share(right.mean().item(), float(interval.low), float(interval.high), n)


def _mean_share(scores: Tensor) -> Share:
    """A prompt with two objects of which one is right counts half."""
    return share(scores[~scores.isnan()])


@torch.no_grad()
def denoising_loss(pipeline: StableDiffusionPipeline, *, count: int, batch: int = 128) -> float:
    """Mean squared error to epsilon or v on fresh pictures of the world, with fixed noise and
    timesteps.
    """
    diffusion = Diffusion.from_scheduler_config(dict(pipeline.scheduler.config))
    scenes, images = zip(*samples(count, seed=LOSS_SEED), strict=True)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    pixels = torch.stack([pixel_tensor(image, resolution=side, flip=False) for image in images])
    texts = [scene.caption for scene in scenes]
    seeds = torch.arange(count) + LOSS_SEED
    total = 0.0
    for rows in torch.split(torch.arange(count), batch):
        posterior = pipeline.vae.encode(pixels[rows].to(pipeline.device)).latent_dist
        latents = posterior.mean * pipeline.vae.config.scaling_factor
        timesteps, noise, _ = sample_randomness(
            seeds[rows], latents.shape[1:], steps=diffusion.steps
        )
        timesteps, noise = timesteps.to(latents.device), noise.to(latents.device)
        noisy = diffusion.noised(latents, noise, timesteps)
        states = encode_texts(pipeline, [texts[i] for i in rows])
        guess = pipeline.unet(noisy, timesteps, states).sample
        error = F.mse_loss(guess, diffusion.target(latents, noise, timesteps))
        total += error.item() * len(rows)
    return total / count


def encode_texts(pipeline: StableDiffusionPipeline, texts: list[str]) -> Tensor:
    """Text states (B, T, D), padded as in training."""
    ids = pipeline.tokenizer(
        texts, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    states: Tensor = pipeline.text_encoder(input_ids=ids.to(pipeline.device)).last_hidden_state
    return states
