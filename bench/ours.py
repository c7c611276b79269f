"""Our training step in blocks that can be timed: through the Trainer, as `bksdm train` takes it."""

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

from bench.cases import Step
from bench.runners import FOREVER, Bench, distillation
from bksdm.evaluation.generate import Sampling
from bksdm.processes import Process
from bksdm.training.distill import Distillation
from bksdm.training.ema import Ema
from bksdm.training.folder import RunFolder
from bksdm.training.peers import Peers
from bksdm.training.run import Start, fit
from bksdm.training.samples import SampleGrid
from bksdm.training.saving import CheckpointSettings
from bksdm.training.signals import Signals
from bksdm.training.trainer import TrainerSettings


class Timed(Distillation):
    """Our LightningModule, which times a block of its steps and ends the fit after it."""

    bench: Bench
    steps = 0
    seconds = 0.0
    ready = False
    _begin = 0.0

    def setup(self, stage: str) -> None:
        """Once: each block is a fit, and would compile anew."""
        if not self.ready:
            super().setup(stage)
        self.ready = True

    def teardown(self, stage: str) -> None:
        """Not after each block."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the callbacks', so that theirs is in the time."""
        del outputs, batch
        if batch_idx in (0, self.steps):
            self.bench.wait()
            now = self.bench.clock()
            self.seconds, self._begin = now - self._begin, now
        if batch_idx >= self.steps:
            self.trainer.limit_val_batches = 0  # Lightning would validate once more
            self.trainer.should_stop = True


class NoAverage(Ema):
    """Keeps none."""

    def on_train_start(self, *args: object) -> None:
        """Nothing to begin with."""

    def on_step_end(self, *args: object) -> None:
        """Nothing to add to."""


class ThroughTrainer:
    """Our step as `bksdm train` takes it: each block is a fit of its own."""

    def __init__(self, bench: Bench, step: Step) -> None:
        self.bench, self.step = bench, step
        self.module: Timed = distillation(bench, step, Timed)
        self.module.bench = bench
        self.data = bench.data(step)
        self.settings = TrainerSettings(
            max_steps=FOREVER,
            accelerator=bench.device.type,
            precision=step.precision,
            log_every_n_steps=20,
            validate_every_n_steps=FOREVER,
        )

    def block(self, steps: int) -> float:
        """Seconds of so many steps."""
        self.module.steps = steps
        ema = (Ema if self.step.ema else NoAverage)(decay=0.9999)
        quiet = contextlib.redirect_stdout(io.StringIO())  # the progress of a run
        with tempfile.TemporaryDirectory() as name, quiet:
            fit(
                self.module, self.data, self.settings,
                start=Start(), folder=RunFolder(Path(name)), ema=ema, samples=_no_samples(ema),
                checkpoints=CheckpointSettings(
                    every_n_steps=FOREVER, every_minutes=FOREVER, keep_every_n_steps=0, best=0,
                    metric="val/task", background=False,
                ),
                signals=Signals(), peers=Peers(Process()),
            )  # fmt: skip
        return self.module.seconds

    def close(self) -> None:
        """Take the compiled graphs' hooks off."""
        Distillation.teardown(self.module, "fit")


def _no_samples(ema: Ema) -> SampleGrid:
    sampling = Sampling(steps=1, guidance=1.0, batch_size=1)
    return SampleGrid(
        Path(), prompts=[], sampling=sampling, every_n_steps=0, before=_no_student, ema=ema,
        peers=Peers(Process()),
    )  # fmt: skip


def _no_student() -> Any:
    raise AssertionError("no samples are drawn here")
