"""Time and memory of U-Nets and of whole pipelines, side by side with a baseline in the same run.

What a latency is worth: only beside the machine, threads, dtype, batch and versions that it was
measured with, all of which the report holds; of a machine that others use too, only the ratio to
the baseline. A ratio on a CPU says little of a GPU's, or of another CPU's: of BK-SDM's students on
a Xeon 0.56 to 0.70 of Stable Diffusion's time is reported, and by a user of 12 virtual cores of a
Xeon 0.89 to 0.99 (Nota-NetsPresso/BK-SDM issue 67, unanswered). Times are not comparable between
schedulers either: see `image_cost.unet_calls`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from bksdm.errors import InputError
from bksdm.evaluation.cost.machine import Machine, machine
from bksdm.evaluation.cost.timing import (
    Call,
    Measured,
    Stopwatch,
)
from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.prompts import from_texts
from bksdm.expected import count
from bksdm.export.mixture_unet import MixtureUnet

WARM_UP_STEPS: Final = 4  # of an image's: every shape and kernel comes in the first steps
UNET_ROWS: Final = (1, 2)  # one image without guidance, and with it


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """How often is timed.

    Models are timed on the device where they are, in the dtype of the sampling (None: in theirs).

    Attributes:
        warmup: calls of each model that are not counted, before each thing that is timed.
        repeats: counted calls of a U-Net.
        image_repeats: counted calls of a whole pipeline at each batch size; 0 to time U-Nets only.
        batch_sizes: images at once, for throughput. A single image is timed in any case.
    """

    warmup: int = 1
    repeats: int = 15
    image_repeats: int = 3
    batch_sizes: tuple[int, ...] = (8,)

    def __post_init__(self) -> None:
        count("latency.warmup", self.warmup, least=0)
        count("latency.repeats", self.repeats, least=1)
        count("latency.image_repeats", self.image_repeats, least=0)
        if not isinstance(self.batch_sizes, list | tuple):
            raise InputError(
                f"latency.batch_sizes={self.batch_sizes}: expected a list of whole numbers"
            )
        for size in self.batch_sizes:
            count("latency.batch_sizes", size, least=1)
        object.__setattr__(self, "batch_sizes", tuple(self.batch_sizes))  # the shell gives a list

    @property
    def image_batches(self) -> tuple[int, ...]:
        """Batch sizes of whole pipelines, ascending, from 1 on; none if they are not timed."""
        return tuple(sorted({1, *self.batch_sizes})) if self.image_repeats else ()

    def calls(self, models: int) -> int:
        """Calls that a measurement of so many pipelines makes, for a progress bar."""
        unet = len(UNET_ROWS) * (self.warmup + self.repeats)
        images = len(self.image_batches) * (self.warmup + self.image_repeats)
        return models * (unet + images)


@dataclass(frozen=True)
class ModelLatency:
    """One model's.

    Attributes:
        model: its name.
        dtype: of its U-Net.
        unet_calls: one call of its U-Net, with 1 row (an image without guidance) and 2 (with).
        images: prompts to pixels by the whole pipeline, one at a time first.
    """

    model: str
    dtype: str
    unet_calls: tuple[Measured, ...]
    images: tuple[Measured, ...]


@dataclass(frozen=True)
class LatencyReport:
    """Several models' on one machine in one run; the first is the baseline."""

    machine: Machine
    settings: LatencySettings
    sampling: Sampling
    models: tuple[ModelLatency, ...]


def pipeline_latency(
    pipelines: Mapping[str, StableDiffusionPipeline],
    settings: LatencySettings,
    *,
    sampling: Sampling,
    advance: Callable[[int], object] = lambda count: None,
) -> LatencyReport:
    """Time pipelines by name, the first of which is the baseline: U-Net calls, then whole images as
    `generate` makes them by `sampling`, whose dtype they are cast to (its batch size is not used).

    `advance` is told of each of `settings.calls(len(pipelines))` calls.

    Raises:
        InputError: no pipeline, or pipelines on different devices, or on one that is neither a CPU
            nor a CUDA GPU.
    """
    unets = {name: pipeline.unet for name, pipeline in pipelines.items()}
    watch = Stopwatch(settings.warmup, _common_device(unets), advance)
    pipelines = {name: sampling.prepared(pipeline) for name, pipeline in pipelines.items()}
    calls = [_timed_unets(pipelines, watch, settings, sampling, rows=rows) for rows in UNET_ROWS]
    images = [
        _timed_images(pipelines, watch, settings, sampling, batch=size)
        for size in settings.image_batches
    ]
    models = tuple(
        ModelLatency(
            model=name,
            dtype=str(unet.dtype).removeprefix("torch."),
            unet_calls=tuple(measured[name] for measured in calls),
            images=tuple(measured[name] for measured in images),
        )
        for name, unet in unets.items()
    )
    return LatencyReport(machine(watch.device), settings, sampling, models)


def _timed_unets(
    pipelines: Mapping[str, StableDiffusionPipeline],
    watch: Stopwatch,
    settings: LatencySettings,
    sampling: Sampling,
    *,
    rows: int,
) -> Mapping[str, Measured]:
    calls = {
        name: unet_call(
            timed_unet(p),
            rows=rows,
            tokens=p.tokenizer.model_max_length,
            size=sampling.pixels(p) // p.vae_scale_factor,
        )
        for name, p in pipelines.items()
    }
    weights = {name: weight_bytes(timed_unet(p)) for name, p in pipelines.items()}
    return watch.measured(calls, rounds=settings.repeats, batch=rows, weights=weights)


def _timed_images(
    pipelines: Mapping[str, StableDiffusionPipeline],
    watch: Stopwatch,
    settings: LatencySettings,
    sampling: Sampling,
    *,
    batch: int,
) -> Mapping[str, Measured]:
    brief = replace(sampling, steps=min(sampling.steps, WARM_UP_STEPS))
    return watch.measured(
        {name: image_call(p, sampling=sampling, batch=batch) for name, p in pipelines.items()},
        {name: image_call(p, sampling=brief, batch=batch) for name, p in pipelines.items()},
        rounds=settings.image_repeats,
        batch=batch,
        weights={
            name: weight_bytes(p.text_encoder, timed_unet(p), p.vae)
            for name, p in pipelines.items()
        },
    )


def timed_unet(pipeline: StableDiffusionPipeline) -> UNet2DConditionModel:
    """The U-Net of which a call is timed: of a mixture the expert whose MACs are the nearest to the
    mean over its prompts.
    """
    unet = pipeline.unet
    return unet.expert(unet.typical) if isinstance(unet, MixtureUnet) else unet


def unet_call(
    unet: UNet2DConditionModel, *, rows: int, tokens: int, size: int | None = None
) -> Call:
    """A call of a U-Net on `rows` latents of `size` a side (None: its own), each with `tokens` text
    states.
    """
    config, rng = unet.config, torch.Generator().manual_seed(0)
    size, width = size or config.sample_size, config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    latents = torch.randn(rows, config.in_channels, size, size, generator=rng)
    text = torch.randn(rows, tokens, width, generator=rng)
    inputs = (
        latents.to(unet.device, unet.dtype),
        torch.tensor(500, device=unet.device),
        text.to(unet.device, unet.dtype),
    )

    def call() -> None:
        with torch.no_grad():
            unet(*inputs)

    return call


def image_call(pipeline: StableDiffusionPipeline, *, sampling: Sampling, batch: int) -> Call:
    """The making of `batch` images at once, prompts to pixels. What a prompt says takes no time:
    all are padded to the same length.
    """
    prompts = from_texts(["a picture"] * batch, seed=0)
    at_once = replace(sampling, batch_size=batch)

    def call() -> None:
        for _ in generate(pipeline, prompts, at_once):
            pass

    return call


def weight_bytes(*networks: nn.Module) -> int:
    """Memory of the parameters and buffers of networks."""
    return sum(
        tensor.nbytes
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
    )


def _common_device(unets: Mapping[str, UNet2DConditionModel]) -> torch.device:
    devices = {name: str(unet.device) for name, unet in unets.items()}
    if len(set(devices.values())) != 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise InputError(
            f"latency of {found or 'no model'}: expected one or more models, all on one device"
        )
    device = torch.device(next(iter(devices.values())))
    if device.type not in ("cpu", "cuda"):  # others do not wait for a call's end
        raise InputError(f"latency on {device}: expected models on the CPU or a CUDA GPU")
    return device
