"""What a run tells of itself every few steps: losses, rates, memory, time left; and that it stops
when a loss is no number any more.
"""

import json
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from bksdm.atomic import replacing
from bksdm.batch import TextImageBatch
from bksdm.errors import InputError, ToldElsewhereError
from bksdm.training.module import StepModule
from bksdm.training.peers import Peers
from bksdm.training.step_losses import NonFinite, StepLosses
from bksdm.training.steps import StepCallback
from bksdm.training.throughput import Throughput


@dataclass(frozen=True)
class Utilisation:
    """What turns images/s into TFLOP/s and MFU.

    Attributes:
        flops: useful FLOPs of an image (`models.cost.step_flops`).
        peak_tflops: of one device at the run's precision; None if it is not known.
    """

    flops: int
    peak_tflops: float | None

    def of(self, images_per_second: float, *, devices: int) -> dict[str, float]:
        """TFLOP/s of one device, and the part of its peak that they are."""
        tflops = images_per_second * self.flops / devices / 1e12
        known = {} if self.peak_tflops is None else {"mfu": tflops / self.peak_tflops}
        return {"tflops_per_device": tflops, **known}


class Telemetry(StepCallback):
    """Logs every `every_n_steps` optimiser steps, from tensors that stay on the device until then.

    Args:
        every_n_steps: optimiser steps.
        throughput: the run's stopwatch.
        utilisation: the run's FLOPs.
        peers: the processes.
        report: where the first non-finite step is described.
        samples_of: the samples of an optimiser step, for that report.
        facts: what else it needs to be reproduced, such as the seed.
        terms: names of the losses.
    """

    def __init__(
        self,
        *,
        every_n_steps: int,
        throughput: Throughput,
        utilisation: Utilisation,
        peers: Peers,
        report: Path,
        samples_of: Callable[[int], Sequence[str]],
        facts: Mapping[str, Any],
        terms: Sequence[str],
    ) -> None:
        self.every_n_steps = every_n_steps
        self.throughput = throughput
        self.utilisation = utilisation
        self.peers = peers
        self.report = report
        self.samples_of = samples_of
        self.facts = facts
        self.losses = StepLosses(terms)
        self.shown: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook."""
        del pl_module, batch
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.throughput.begin()

    def on_micro_batch(self, outputs: dict[str, Tensor], batch: TextImageBatch) -> None:
        """Add up."""
        del batch
        self.losses.add(outputs["terms"])

    def on_step_end(self, trainer: pl.Trainer, module: StepModule) -> None:
        """Log, if it is time; all processes do, as they read the losses together."""
        done = trainer.global_step
        self.losses.finish(step=done - 1, gradient_norm=module.gradient_norm)
        if done % self.every_n_steps and done < trainer.max_steps:
            self.throughput.finish()
            return
        values = self.losses.read(self.peers)  # waits for the device
        self.throughput.finish()
        metrics = {f"train/{name}": value for name, value in values.items()}
        metrics["train/lr"] = module.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        metrics |= {f"speed/{name}": value for name, value in self._speed(trainer).items()}
        self.shown = metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=done - 1)
        self.check(trainer)

    def check(self, trainer: pl.Trainer) -> None:
        """Stop at a loss that is no number; all processes must ask together. Weights are not saved
        after such a step.

        Raises:
            InputError: one was not, at some step since the last time.
        """
        found = self.losses.non_finite(self.peers)
        if found is None:
            return
        if not trainer.is_global_zero:
            raise ToldElsewhereError(f"a loss or gradient of step {found.step} is not finite")
        self._write(found)
        bad = [rank for rank, values in enumerate(found.values) if values]
        where = f" in processes {bad}" if len(found.values) > 1 else ""
        raise InputError(
            f"a loss or gradient of step {found.step} is not finite{where}; its samples, seed and"
            f" losses are in {self.report}. Nothing was saved after it, and the same command comes"
            " to it again: begin under another name= with a lower optimizer.lr,"
            " trainer.precision=32-true or other data"
        )

    def _write(self, found: NonFinite) -> None:
        told = {
            "step": found.step,
            **self.facts,
            # Strings, as JSON has no word for what they are.
            "losses_by_process": [
                {name: f"{value:.9g}" for name, value in values.items()} for values in found.values
            ],
            "samples": list(self.samples_of(found.step)),
        }
        self.report.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.report) as temporary:
            temporary.write_text(json.dumps(told, indent=1))

    def _speed(self, trainer: pl.Trainer) -> dict[str, float]:
        rate = self.throughput.read()
        if rate is None:
            return {"memory_gib": memory_gib(trainer.strategy.root_device)}
        left = (trainer.max_steps - trainer.global_step) * self.throughput.global_batch
        return {
            "images_per_second": rate.images_per_second,
            **self.utilisation.of(rate.images_per_second, devices=trainer.world_size),
            "data_wait": rate.data_wait,
            "memory_gib": memory_gib(trainer.strategy.root_device),
            "hours_left": left / rate.images_per_second / 3600,
        }


def memory_gib(device: torch.device) -> float:
    """The most memory so far: of tensors on the GPU, without one of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
