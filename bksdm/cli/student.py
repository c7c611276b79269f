"""What is trained, from settings: the student that is cut, and the module that distils it."""

from importlib.metadata import version
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from omegaconf import DictConfig

from bksdm.cli.config import built, optional_number
from bksdm.errors import InputError
from bksdm.losses.distill import LossWeights
from bksdm.models.teacher import Teacher
from bksdm.surgery import plans
from bksdm.surgery.plans import Plan
from bksdm.training.beginning import Ancestor, Beginning, find_ancestor
from bksdm.training.distill import Distillation
from bksdm.training.optim import OptimizerSettings
from bksdm.training.speed import SpeedSettings

_PACKAGES: Final = ("bksdm", "torch", "diffusers", "transformers", "pytorch-lightning")


def check_method(config: DictConfig) -> None:
    """Refuse a method of another verb.

    Raises:
        InputError: it trains no student.
    """
    if "init" not in config.method:
        raise InputError("method: that trains a router; use `bksdm route`, or method=bk_sdm")


def cut(teacher: Teacher, plan: Plan, *, init: str, seed: int) -> UNet2DConditionModel:
    """The student before training; with init="random", weights are a function of the seed.

    Raises:
        InputError: `init` is neither teacher nor random nor the folder of a model that fits.
    """
    if init == "teacher":
        return plans.cut(teacher.unet, plan)
    ancestor = ancestor_of(init)
    if ancestor is not None:
        return ancestor.student(teacher.unet.config, plan)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return plans.empty(teacher.unet.config, plan)


def ancestor_of(init: str) -> Ancestor | None:
    """The model that `method.init` names; None where that is the teacher, or nobody.

    Raises:
        InputError: it is not there.
    """
    return None if init in ("teacher", "random") else find_ancestor(str(init))


def beginning(config: DictConfig, teacher: Teacher, plan: Plan) -> Beginning:
    """The student of a run before training, with what it has of an ancestor.

    Raises:
        InputError: see `cut`.
    """
    init = config.method.init
    ancestor = ancestor_of(init)
    if ancestor is not None:
        return ancestor.beginning(teacher, plan)
    return Beginning(unet=cut(teacher, plan, init=init, seed=config.seed))


def distillation(
    config: DictConfig,
    teacher: Teacher,
    plan: Plan,
    begun: Beginning,
    *,
    speed: SpeedSettings,
    data: dict[str, Any],
) -> Distillation:
    """The module of a run on data of this fingerprint."""
    method = config.method
    return Distillation(
        begun.unet,
        teacher,
        pairs=plans.feature_pairs(teacher.unet.config, plan),
        weights=built(method.weights, LossWeights),
        optimizer=built(config.optimizer, OptimizerSettings),
        normalise_features=method.normalise_features,
        min_snr_gamma=method.min_snr_gamma,
        gradient_clip=method.gradient_clip,
        speed=speed,
        text_encoder=begun.text_encoder,
        masks=begun.masks,
        identity={
            "plan": plan.to_json(),
            "student_config": plans.student_config(teacher.unet.config, plan),
            "teacher": teacher.source.identity,
            "data": data,
            "versions": {name: version(name) for name in _PACKAGES},
            **({"init": dict(begun.identity)} if begun.identity else {}),
        },
    )


def picture_resolution(config: DictConfig, teacher: Teacher, plan: Plan) -> int:
    """Pixels of a side: those that are wanted, else the teacher's own.

    Raises:
        InputError: VAE and U-Net cannot halve them as often as they do.
    """
    return _resolution(config, teacher, stages=plans.stages(teacher.unet.config, plan))


def whole_resolution(config: DictConfig, teacher: Teacher) -> int:
    """The same where all of the teacher's stages stay."""
    return _resolution(config, teacher, stages=len(teacher.unet.config.down_block_types))


def _resolution(config: DictConfig, teacher: Teacher, *, stages: int) -> int:
    unit = teacher.latent_factor * 2 ** (stages - 1)
    wanted = optional_number(config, "data.resolution", least=1)
    resolution = wanted or teacher.picture_size
    if resolution < unit or resolution % unit:
        raise InputError(
            f"data.resolution={resolution}: expected a multiple of {unit}, as the VAE and "
            f"{stages} stages halve it"
        )
    return int(resolution)
