"""Training steps in blocks that can be timed: the bare loop and the reference recipe (ours are in
`bench.ours`). Every runner has its own copies of teacher and student.

A block begins with a step that is not timed, and a GPU is waited for at a block's ends alone.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bench.cases import Step
from bench.reference import reference_loop
from bench.world import Shards, World
from bksdm.batch import TextImageBatch
from bksdm.data.exact import Loading, Share
from bksdm.losses.distill import LossWeights
from bksdm.models.teacher import Teacher
from bksdm.surgery.blocks import feature_pairs, remove_blocks
from bksdm.training.distill import Distillation
from bksdm.training.optim import OptimizerSettings
from bksdm.training.rehearsal import Rehearsal

FOREVER = 10**6  # steps: no run here ends by itself, saves or validates


class Runner(Protocol):
    """Takes training steps of one kind."""

    def block(self, steps: int) -> float:
        """Seconds of so many steps."""

    def close(self) -> None:
        """Give back what is global."""


@dataclass(frozen=True)
class Bench:
    """What all runners share.

    Attributes:
        world: what is trained on what.
        teacher: its teacher, of which every runner has its own copy.
        shards: its data; None where batches are given.
        device: where the steps run.
        clock: seconds, of the wall or of this process.
    """

    world: World
    teacher: Teacher
    shards: Shards | None
    device: torch.device
    clock: Callable[[], float] = time.perf_counter

    def data(self, step: Step) -> Any:
        """The data that a kind of step takes."""
        assert self.shards is not None
        if step.pictures:
            return self.shards.data("pictures")
        return self.shards.data("latents and text" if step.cached_text else "latents")

    def batches(self, step: Step) -> Iterator[TextImageBatch]:
        """The same without a trainer."""
        share = Share(batch=self.world.batch, rank=0, world=1, first_step=0, last_step=FOREVER)
        loader = self.data(step)._training.loader(share, Loading(0, None))  # noqa: SLF001
        return iter(loader)

    def own_teacher(self) -> Teacher:
        """A copy: speed settings change a teacher in place."""
        names = ("unet", "vae", "text_encoder")
        return replace(
            self.teacher, **{name: copy.deepcopy(getattr(self.teacher, name)) for name in names}
        )

    def seconds(self, steps: Iterator[Any], count: int) -> float:
        """Of the next `count` steps, after one that is not timed."""
        next(steps)
        self.wait()
        begin = self.clock()
        for _ in itertools.islice(steps, count):
            pass
        self.wait()
        return self.clock() - begin

    def wait(self) -> None:
        """For the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True, kw_only=True)
class AdamWay(OptimizerSettings):
    """A run's AdamW, but for how it goes over the weights."""

    way: str

    def build(self, module: torch.nn.Module, *, max_steps: int) -> tuple[Optimizer, LRScheduler]:
        """The run's optimiser and schedule."""
        optimizer, schedule = super().build(module, max_steps=max_steps)
        for group in optimizer.param_groups:
            group["foreach"], group["fused"] = self.way == "foreach", self.way == "fused"
        return optimizer, schedule


def distillation(bench: Bench, step: Step, kind: type[Distillation] = Distillation) -> Any:
    """The LightningModule of a kind of step, with the losses of a run."""
    teacher = bench.own_teacher()
    settings: dict[str, Any] = {
        "lr": 5e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2,
        "schedule": "constant", "warmup_steps": 0,
    }  # fmt: skip
    return kind(
        remove_blocks(teacher.unet, plan=bench.world.plan),
        teacher,
        pairs=feature_pairs(bench.world.plan, teacher.unet.config),
        weights=LossWeights(task=1, output_kd=1, feature_kd=1),
        optimizer=AdamWay(**settings, way=step.adam)
        if step.adam
        else OptimizerSettings(**settings),
        speed=step.speed,
    )


class BareLoop:
    """The same maths without a trainer, on the shards' batches or on those that are given."""

    def __init__(
        self, bench: Bench, step: Step, batches: Iterator[TextImageBatch] | None = None
    ) -> None:
        self.bench = bench
        self.module = distillation(bench, step)
        self.module.to(bench.device)
        self.module.prepare(bench.device)
        rehearsal = Rehearsal(
            self.module, precision=step.precision, ema_decay=0.9999, max_steps=FOREVER
        )
        self.steps = (rehearsal.step([batch]) for batch in batches or bench.batches(step))

    def block(self, steps: int) -> float:
        """Seconds of so many steps."""
        return self.bench.seconds(self.steps, steps)

    def close(self) -> None:
        """Take the compiled graphs' hooks off."""
        self.module.teardown("fit")


class Reference:
    """The reference recipe, from pictures; in half precision on a GPU, as published."""

    def __init__(
        self, bench: Bench, step: Step, batches: Iterator[TextImageBatch] | None = None
    ) -> None:
        self.bench = bench
        mixed = bench.device.type == "cuda"
        teacher = bench.own_teacher()
        student = remove_blocks(teacher.unet, plan=bench.world.plan).to(bench.device)
        teacher.to(bench.device, dtype=torch.float16 if mixed else torch.float32)
        self.steps = reference_loop(
            teacher,
            student,
            batches or bench.batches(replace(step, pictures=True)),
            pairs=feature_pairs(bench.world.plan, teacher.unet.config),
            mixed=mixed,
        )

    def block(self, steps: int) -> float:
        """Seconds of so many steps."""
        return self.bench.seconds(self.steps, steps)

    def close(self) -> None:
        """Nothing is global."""
