"""Training steps without a trainer: nothing is saved, logged or validated.

What a run costs is told from these: `bksdm check` times a few, traces one for its memory, and the
benchmarks compare the Trainer with them.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from diffusers.training_utils import EMAModel

from bksdm.batch import TextImageBatch
from bksdm.training.distill import Distillation
from bksdm.training.held import held_weights, hold_zeros
from bksdm.training.optim import clip_gradients


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step, and how many of them it waited for data."""

    seconds: float
    data_wait: float


class Rehearsal:
    """The optimiser steps of a run, in the order in which the Trainer takes their parts: forward,
    gradients away, backward, masks, clipping, optimiser, schedule, average.

    Args:
        module: whose student is trained; prepared, on its device.
        precision: `trainer.precision`.
        ema_decay: of the average.
        max_steps: of the schedule.
        processes: of the run; the gradients of several live on in the buckets in which they are
            averaged (which this one process does not do).
    """

    def __init__(
        self,
        module: Distillation,
        *,
        precision: str,
        ema_decay: float,
        max_steps: int,
        processes: int = 1,
    ) -> None:
        self.module = module
        self.processes = processes
        self.precision = precision
        self.optimizer, self.schedule = module.optimizer_settings.build(
            module.student, max_steps=max_steps
        )
        self.held = held_weights(module.student, module.masks)
        self.ema = EMAModel(module.student.parameters(), decay=ema_decay, foreach=True)

    def step(self, micro_batches: Sequence[TextImageBatch]) -> None:
        """One optimiser step over these micro-batches."""
        for number, batch in enumerate(micro_batches):
            mixed = self.precision == "bf16-mixed"
            kind = self.module.device.type  # without a cache of casts, as the Trainer's
            with torch.autocast(kind, torch.bfloat16, enabled=mixed, cache_enabled=False):
                moved = batch.to(self.module.device, non_blocking=True)
                loss = self.module.terms(moved).total(self.module.weights)
            if number == 0:
                self.optimizer.zero_grad(set_to_none=self.processes == 1)
            (loss / len(micro_batches)).backward()  # type: ignore[no-untyped-call]
        hold_zeros(self.held.values())
        clip_gradients(self.module.student, self.module.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        self.ema.step(self.module.student.parameters())


def timed_steps(
    rehearsal: Rehearsal, batches: Iterable[TextImageBatch], *, accumulation: int
) -> Iterator[StepTime]:
    """Take a step each time it is asked, until the batches end."""
    waiting = iter(batches)
    device = rehearsal.module.device
    while True:
        begin = time.perf_counter()
        micro_batches = list(islice(waiting, accumulation))
        if len(micro_batches) < accumulation:
            return
        data_wait = time.perf_counter() - begin
        rehearsal.step(micro_batches)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield StepTime(time.perf_counter() - begin, data_wait)
