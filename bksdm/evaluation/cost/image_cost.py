"""What one image costs a pipeline: text encoder, every call of the U-Net, VAE decoder.

Counted on the meta device from configs, so it needs no weights. Knows how diffusers' pipelines
sample. Knows nothing of time: see `latency`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
from diffusers import SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel

from bksdm.errors import InputError
from bksdm.export.mixture_pipeline import MixturePipeline
from bksdm.models.cost import (
    Cost,
    UnetCost,
    text_encoder_cost,
    unet_cost_by_stage,
    unet_module_cost,
    vae_decoder_cost,
)


@dataclass(frozen=True)
class PipelineParts:
    """What decides the cost of an image: three configs, and how it is sampled.

    Attributes:
        networks: U-Nets as they are, where they may be narrower than their config says, each with
            its share of the images: one, or a mixture's experts; none: as the config says.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: SchedulerMixin
    networks: Sequence[tuple[float, UNet2DConditionModel]] = ()


@dataclass(frozen=True)
class ImageCost:
    """What one image costs.

    Attributes:
        text_encoder: of one caption.
        unet: of one row of one call.
        vae_decoder: of one picture.
        unet_calls: calls of the U-Net, in sequence.
        rows: rows of a call, and captions that are encoded: 2 with guidance (the prompt's and the
            empty prompt's), else 1.
        image: parameters of the three networks, without VAE encoder and safety checker as BK-SDM
            counts a whole model; MACs of all that is called for one image.
    """

    text_encoder: Cost
    unet: UnetCost
    vae_decoder: Cost
    unet_calls: int
    rows: int
    image: Cost


def parts_of_configs(parts: Mapping[str, Mapping[str, Any]]) -> PipelineParts:
    """From configs of `unet`, `vae`, `text_encoder` and `scheduler`
    (`models.source.architecture`).

    Raises:
        InputError: the scheduler's does not say of which class it is.
    """
    name = parts["scheduler"].get("_class_name")
    kind = getattr(diffusers, str(name), None)
    if kind is None:
        raise InputError(
            f"scheduler _class_name={name}: expected the name of a diffusers scheduler, such as"
            " PNDMScheduler; the number of U-Net calls follows from it"
        )
    scheduler = kind.from_config(dict(parts["scheduler"]))
    return PipelineParts(parts["unet"], parts["vae"], parts["text_encoder"], scheduler)


def parts_of_pipeline(pipeline: StableDiffusionPipeline) -> PipelineParts:
    """The same of a loaded pipeline."""
    text = pipeline.text_encoder.config.to_dict()
    unet, mixture = pipeline.unet, isinstance(pipeline, MixturePipeline)
    networks = pipeline.shapes() if mixture else [(1.0, unet)]
    return PipelineParts(unet.config, pipeline.vae.config, text, pipeline.scheduler, networks)


def expected_unet_cost(
    networks: Sequence[tuple[float, UNet2DConditionModel]], side: int, *, tokens: int
) -> UnetCost:
    """The mean over the images, each of which one of the networks makes; parameters, too, are of
    the one that does.
    """
    costs = [(share, unet_module_cost(unet, side, tokens=tokens)) for share, unet in networks]
    if len(costs) == 1:
        return costs[0][1]

    def mean(of: Callable[[UnetCost], Cost]) -> Cost:
        names = ("parameters", "macs", "macs_published")
        return Cost(*[round(sum(s * getattr(of(c), name) for s, c in costs)) for name in names])

    stages = {name: mean(lambda cost, name=name: cost.stages[name]) for name in costs[0][1].stages}  # type: ignore[misc]
    return UnetCost(mean(lambda cost: cost.total), stages)


def unet_calls(scheduler: SchedulerMixin, steps: int) -> int:
    """Calls of the U-Net that a scheduler makes in `steps` steps: one for each of its timesteps,
    of which solvers of second order and PNDM's warm-up have more than steps.

    The scheduler stays as it is.
    """
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(steps)
    return len(own.timesteps)


def guided_rows(unet: Mapping[str, Any], guidance: float) -> int:
    """Rows of a U-Net call for one image, by diffusers' rule: a U-Net with its guidance distilled
    in (`time_cond_proj_dim`) is never called for the empty prompt.
    """
    return 2 if guidance > 1 and unet.get("time_cond_proj_dim") is None else 1


def image_cost(
    parts: PipelineParts, *, steps: int, guidance: float, size: int | None = None
) -> ImageCost:
    """What an image of `size` pixels a side (None: the U-Net's own) costs in `steps` steps with
    that guidance scale.
    """
    tokens = parts.text_encoder["max_position_embeddings"]
    factor = 2 ** (len(parts.vae["block_out_channels"]) - 1)
    side = size // factor if size else parts.unet["sample_size"]
    text = text_encoder_cost(parts.text_encoder)
    unet = (
        expected_unet_cost(parts.networks, side, tokens=tokens)
        if parts.networks
        else unet_cost_by_stage(parts.unet, side, tokens=tokens)
    )
    decoder = vae_decoder_cost(parts.vae, side)
    calls, rows = unet_calls(parts.scheduler, steps), guided_rows(parts.unet, guidance)
    times = ((text, rows), (unet.total, rows * calls), (decoder, 1))
    whole = Cost(
        sum(cost.parameters for cost, _ in times),
        sum(cost.macs * number for cost, number in times),
        sum(cost.macs_published * number for cost, number in times),
    )
    return ImageCost(text, unet, decoder, calls, rows, whole)
