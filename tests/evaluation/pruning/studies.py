"""Studies of tiny pipelines, a few prompts and one step."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measure import Measure
from bksdm.evaluation.measures.denoising import DenoisingLoss
from bksdm.evaluation.measures.similarity import LatentMse, Ssim
from bksdm.evaluation.prompts import ShapesPrompts
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.pruning.calibration import CalibrationSettings
from bksdm.evaluation.pruning.grid import Configuration, Point
from bksdm.evaluation.pruning.study import Study
from bksdm.surgery.sparse.budget import Granularity
from bksdm.surgery.sparse.criteria import Magnitude, Random, Wanda
from bksdm.surgery.sparse.layers import Selection
from bksdm.surgery.sparse.method import Method
from bksdm.surgery.sparse.plan import COMPONENTS
from tests.conftest import tiny_pipeline

MAGNITUDE = Method(name="magnitude", criterion=Magnitude())
RANDOM = Method(name="random", criterion=Random())
WANDA = Method(name="wanda", criterion=Wanda(), granularity=Granularity.ROW)
SAMPLING = Sampling(steps=1, guidance=2.0, batch_size=4)
MEASURES: Mapping[str, Measure] = {
    "denoising": DenoisingLoss(draws=1),
    "latent_mse": LatentMse(),
    "ssim": Ssim(),
}
PROTOCOL = Protocol(
    name="tiny",
    prompts=ShapesPrompts(count=5, held_out=0, seed=100),
    sampling=SAMPLING,
    keeping=Keeping(),
    measures=MEASURES,
    decide="denoising loss",
    latents=True,
)
CALIBRATION = CalibrationSettings(
    prompts=ShapesPrompts(count=8, held_out=0, seed=5000), sampling=SAMPLING, batch_size=8
)


def both(method: Method) -> dict[str, Method]:
    """For both components."""
    return dict.fromkeys(COMPONENTS, method)


def quiet(kind: str = "sd2") -> StableDiffusionPipeline:
    """The tiny pipeline, always with the same weights."""
    torch.manual_seed(0)
    pipeline = tiny_pipeline(kind)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def configuration(
    method: Method, *, seed: int = 0, text_encoder: float = 0.0, unet: float = 0.0
) -> Configuration:
    """Of linear layers."""
    return Configuration(
        label=method.name,
        methods=both(method),
        selection=Selection(),
        point=Point(text_encoder=text_encoder, unet=unet),
        seed=seed,
    )


def of_seed(protocol: Protocol, seed: int) -> Protocol:
    """With other prompts."""
    prompts = protocol.prompts
    assert isinstance(prompts, ShapesPrompts)
    return replace(protocol, prompts=replace(prompts, seed=prompts.seed + 1000 * seed))


def study(root: Path, protocol: Protocol = PROTOCOL, **more: Any) -> Study:
    """Of the tiny pipeline."""
    return Study(
        pipeline=more.pop("pipeline", None) or quiet(),
        weights="tiny",
        protocol=lambda seed: of_seed(protocol, seed),
        calibration=lambda seed: CALIBRATION,
        settings={"protocol": {"name": protocol.name}, "calibration": {"seed": 5000}},
        root=root,
        **more,
    )
