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

from bksdm.data.shapes import IMAGE_SIZE, samples
from bksdm.data.transforms import pixel_tensor
from bksdm.diffusion import Diffusion, sample_randomness
from bksdm.errors import InputError
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
    """A share of n prompts with its 95 % interval (Wilson's, or a bootstrap's)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ShapesResult:
    """Scores of one model.

    Attributes:
        accuracy: by attribute, and "all" by kind of prompt.
        of_teacher: the score of "all" over the teacher's on the same prompts and seeds, if there is
            a teacher.
    """

    model: str
    accuracy: dict[str, Share]
    of_teacher: Share | None
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


@dataclass(frozen=True)
class Reference:
    """A pipeline, the latents that it made of a protocol's prompts, and which were all right."""

    pipeline: StableDiffusionPipeline
    latents: Tensor
    right: Tensor


def evaluate_shapes(
    pipeline: StableDiffusionPipeline,
    protocol: ShapesProtocol,
    *,
    name: str,
    teacher: Reference | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[ShapesResult, Reference]:
    """Generate and score; `advance` is told the number of finished images.

    Returns:
        The scores, and what the next model's can be compared with.

    Raises:
        InputError: the model does not make pictures of this world, or not from such latents.
    """
    _check(pipeline, teacher, name)
    prompts = shapes_prompts(protocol.prompts, seed=protocol.seed)
    unseen = shapes_prompts(protocol.held_out, seed=protocol.seed, held_out=True)
    images: list[Generated] = []
    for image in generate(pipeline, prompts + unseen, protocol.sampling):
        images.append(image)
        advance(1)
    latents = torch.stack([image.latents for image in images])
    net, tokens = load_outline_net(), pipeline.tokenizer.model_max_length
    scores = _scores(images[: len(prompts)], net)
    accuracy = _accuracy(scores)
    if unseen:
        accuracy["held out"] = share(_scores(images[len(prompts) :], net)["all"])
    result = ShapesResult(
        model=name,
        accuracy=accuracy,
        of_teacher=paired_ratio(scores["all"], teacher.right) if teacher else None,
        latent_mse=F.mse_loss(latents, teacher.latents).item() if teacher else None,
        denoising_loss=denoising_loss(pipeline, count=protocol.loss_samples),
        cost=unet_cost(pipeline.unet.config, tokens=tokens),
        latency=latency_ratio(pipeline.unet, teacher.pipeline.unet, tokens=tokens)
        if teacher
        else None,
    )
    return result, Reference(pipeline, latents, scores["all"])


def _check(pipeline: StableDiffusionPipeline, teacher: Reference | None, name: str) -> None:
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    if side != IMAGE_SIZE:
        raise InputError(
            f"model {name} makes {side}x{side} pictures; the protocol shapes judges the "
            f"{IMAGE_SIZE}x{IMAGE_SIZE} ones of the embedded world only"
        )
    if teacher is not None:
        shapes = [
            (
                p.unet.config.in_channels,
                p.unet.config.sample_size,
                p.unet.config.cross_attention_dim,
            )
            for p in (pipeline, teacher.pipeline)
        ]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"model {name} and its baseline have other latents or text (channels, size, width: "
                f"{shapes[0]} and {shapes[1]}); use baseline=null"
            )


def _accuracy(scores: dict[str, Tensor]) -> dict[str, Share]:
    # A prompt with two objects of which one is right counts half for the objects' attributes.
    shares = {name: share(scores[name][~scores[name].isnan()]) for name in ATTRIBUTES}
    two = ~scores["relation"].isnan()
    return shares | {
        "one object": share(scores["all"][~two]),
        "two objects": share(scores["all"][two]),
    }


def _scores(images: Sequence[Generated], net: OutlineNet) -> dict[str, Tensor]:
    pixels = torch.stack([image.pixels for image in images])
    return attribute_scores(pixels, [image.prompt.text for image in images], net)


def share(right: Tensor) -> Share:
    """The mean of a vector of values in [0, 1], with Wilson's interval."""
    n = len(right)
    if n == 0:
        return Share(math.nan, math.nan, math.nan, 0)
    interval = binomtest(round(right.sum().item()), n).proportion_ci(method="wilson")
    return Share(right.mean().item(), float(interval.low), float(interval.high), n)


def paired_ratio(right: Tensor, teacher: Tensor, *, draws: int = 2000) -> Share:
    """Student's score over the teacher's, with a bootstrap interval over their common prompts."""
    rng = torch.Generator().manual_seed(0)
    picks = torch.randint(len(right), (draws, len(right)), generator=rng)
    ratios = right[picks].mean(1) / teacher[picks].mean(1)
    low, high = ratios.quantile(torch.tensor([0.025, 0.975])).tolist()
    return Share((right.mean() / teacher.mean()).item(), low, high, len(right))


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
