"""A run as its settings describe it, built as far as it can be without weights and without
starting anything; what cannot be built is a complaint, not the end.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

import torch
from diffusers import UNet2DConditionModel
from omegaconf import DictConfig, OmegaConf
from torch._subclasses.fake_tensor import FakeTensorMode

from bksdm.cli.config import built, number, plain, run_path
from bksdm.cli.expert import student_plan
from bksdm.cli.logger_package import check_logger
from bksdm.cli.student import ancestor_of, picture_resolution
from bksdm.data.limits import check_settings
from bksdm.data.store import CacheSettings
from bksdm.errors import InputError
from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.protocol import Protocol
from bksdm.export.folder import ExportSettings
from bksdm.losses.distill import LossWeights
from bksdm.models.devices import ACCELERATORS, Accelerator, named
from bksdm.models.source import TeacherSource, architecture
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.processes import this_process
from bksdm.surgery.plans import Plan, empty
from bksdm.training.beginning import Ancestor
from bksdm.training.ema import Ema
from bksdm.training.folder import RunFolder
from bksdm.training.optim import OptimizerSettings
from bksdm.training.saving import CheckpointSettings
from bksdm.training.speed import SpeedSettings
from bksdm.training.trainer import TrainerSettings

OWN: Final = (
    "format", "workers", "shards", "only_shards", "holds", "device", "rehearsal", "price",
)  # fmt: skip
_DATA: Final = (
    "validation_samples",
    "buffer",
    "workers",
    "caption_dropout",
    "flip",
    "mode",
    "start_method",
)
T = TypeVar("T")


@dataclass
class Complaints:
    """Everything that was found wrong, each said once.

    Attributes:
        problems: would stop the run.
        notes: would not.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, make: Callable[[], T]) -> T | None:
        """What `make` returns; None, and a problem more, if it refuses."""
        try:
            return make()
        except InputError as error:
            self.add([str(error)])
            return None

    def refuses(self, check: Callable[[], None]) -> bool:
        """Whether `check` refuses: then there is a problem more."""
        before = len(self.problems)
        self.attempt(check)
        return len(self.problems) > before

    def add(self, problems: Iterable[str]) -> None:
        """More problems."""
        for line in (" ".join(each.split()) for each in problems):
            if line not in self.problems:
                self.problems.append(line)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What the settings describe; None where they describe nothing that could be built.

    Attributes:
        config: the settings.
        values: those of the run alone, as plain values; None while one is missing.
        device: the accelerator that was named; None: this machine.
        source: of the teacher.
        architecture: configs of its parts.
        teacher: all of it, but tensors have no contents.
        plan: of the student.
        student: its U-Net, without weights.
        ancestor: the model that it begins as; None where that is the teacher, or nobody, or where
            it is not here.
        resolution: pixels of a side.
        trainer: settings, whatever accelerators are here.
        speed: settings.
        checkpoint: settings.
        cache: settings.
        folder: of the run.
        batch_size: samples of a micro-batch.
        global_batch: samples of an optimiser step.
        grid_interval: optimiser steps between sample grids; 0: none.
        ema_decay: of the average.
    """

    config: DictConfig
    values: dict[str, Any] | None
    device: Accelerator | None
    source: TeacherSource | None
    architecture: dict[str, dict[str, Any]] | None
    teacher: Teacher | None
    plan: Plan | None
    student: UNet2DConditionModel | None
    ancestor: Ancestor | None
    resolution: int | None
    trainer: TrainerSettings | None
    speed: SpeedSettings | None
    checkpoint: CheckpointSettings | None
    cache: CacheSettings | None
    folder: RunFolder | None
    batch_size: int | None
    global_batch: int | None
    grid_interval: int | None
    ema_decay: float | None

    @property
    def on_gpu(self) -> bool:
        """True if the run computes on accelerators."""
        return self.device is not None or bool(self.trainer and self.trainer.gpu)

    @property
    def lacks_gpu(self) -> bool:
        """True if the run wants a GPU of this machine, which has none."""
        asked = self.config.trainer.accelerator == "gpu"
        return self.device is None and asked and not torch.cuda.is_available()

    @property
    def on_node(self) -> int:
        """Processes of a node."""
        wanted = self.trainer.devices if self.trainer else 1
        if wanted == "auto":
            return max(torch.cuda.device_count(), 1)
        started = this_process()
        return int(wanted or started.world // started.nodes)

    @property
    def world(self) -> int:
        """Processes of the run."""
        return self.on_node * ((self.trainer and self.trainer.num_nodes) or this_process().nodes)


def planned(config: DictConfig, complaints: Complaints) -> Planned:
    """Build what can be built of a run."""
    attempt = complaints.attempt
    device = attempt(lambda: _device(config))
    source = attempt(lambda: built(config.teacher, TeacherSource))
    plan = attempt(lambda: student_plan(config))
    # What asks for a GPU is known without one, too. On another machine it is there.
    elsewhere = Complaints() if config.device else complaints
    trainer = elsewhere.attempt(lambda: _trainer(config))
    trainer = trainer or attempt(lambda: built(config.trainer, TrainerSettings, accelerator="auto"))
    speed = elsewhere.attempt(lambda: built(config.speed, SpeedSettings))
    speed = speed or attempt(lambda: built(config.speed, SpeedSettings, attention="auto"))
    parts = attempt(lambda: architecture(source)) if source else None
    teacher = attempt(lambda: _hollow(source, parts)) if source and parts else None
    student = attempt(lambda: _weightless(parts["unet"], plan)) if parts and plan else None
    resolution = (
        attempt(lambda: picture_resolution(config, teacher, plan)) if teacher and plan else None
    )
    elsewhere.attempt(lambda: check_logger(config))
    if plan:
        attempt(lambda: built(config.export, ExportSettings).narrow(plan))
    for build in _OTHERS:
        attempt(partial(build, config))
    return Planned(
        config=config,
        values=_values(config),
        device=device,
        source=source,
        architecture=parts,
        teacher=teacher,
        plan=plan,
        student=student,
        ancestor=_ancestor(config, complaints),
        resolution=resolution,
        trainer=trainer,
        speed=speed,
        checkpoint=attempt(lambda: built(config.checkpoint, CheckpointSettings)),
        cache=attempt(lambda: built(config.data.cache, CacheSettings)),
        folder=attempt(lambda: RunFolder(run_path(config))),
        batch_size=attempt(lambda: number(config, "data.batch_size", least=1)),
        global_batch=attempt(lambda: number(config, "data.global_batch", least=1)),
        grid_interval=attempt(lambda: number(config, "samples.every_n_steps", least=0)),
        ema_decay=attempt(lambda: _ema_decay(config)),
    )


def weightless(source: TeacherSource, parts: dict[str, dict[str, Any]]) -> TeacherSource:
    """The same teacher with nothing to be read; to be loaded where tensors have no contents."""
    return replace(source, weights="random", architecture=parts)


def _hollow(source: TeacherSource, parts: dict[str, dict[str, Any]]) -> Teacher:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return load_teacher(weightless(source, parts))


def _weightless(config: dict[str, Any], plan: Plan) -> UNet2DConditionModel:
    with torch.device("meta"):
        return empty(config, plan)


def _ancestor(config: DictConfig, complaints: Complaints) -> Ancestor | None:
    try:
        return ancestor_of(config.method.init)
    except InputError as error:
        # On another machine it may be there.
        complaints.notes += [str(error)] * bool(config.device)
        complaints.add([str(error)] * (not config.device))
        return None


def _device(config: DictConfig) -> Accelerator | None:
    if config.device is None:
        return None
    found = named(str(config.device))
    if found is None:
        names = ", ".join(each.name for each in ACCELERATORS)
        raise InputError(f"device={config.device}: expected one of {names}, or null")
    return found


def _trainer(config: DictConfig) -> TrainerSettings:
    try:
        return built(config.trainer, TrainerSettings)
    except InputError as error:
        if config.trainer.accelerator != "gpu" or torch.cuda.is_available():
            raise
        built(config.trainer, TrainerSettings, accelerator="auto")  # only the GPU is missing
        raise InputError(f"{error}; device=h100 plans for one that is not here") from error


def _ema_decay(config: DictConfig) -> float:
    return Ema(decay=config.ema_decay).decay


# Settings that nothing else here builds.
_OTHERS: Final[tuple[Callable[[DictConfig], object], ...]] = (
    lambda config: config.protocol and built(config.protocol, Protocol),
    lambda config: built(config.method.weights, LossWeights),
    lambda config: built(config.optimizer, OptimizerSettings),
    lambda config: built(config.samples.sampling, Sampling),
    *(lambda config, name=name: check_settings(**{name: config.data[name]}) for name in _DATA),
)


def _values(config: DictConfig) -> dict[str, Any] | None:
    own = OmegaConf.masked_copy(config, [str(name) for name in config if name not in OWN])
    missing = OmegaConf.missing_keys(own)
    return None if missing else json.loads(json.dumps(plain(own)))
