"""Progress in optimiser steps: a bar on a terminal, else a line now and then. Both tell rate and
time left.
"""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from bksdm.training.module import StepModule
from bksdm.training.steps import StepCallback
from bksdm.training.telemetry import Telemetry

# Word, and of the metric: name, scale, digits, unit.
_SHOWN = {
    "images/s": ("speed/images_per_second", 1, 1, ""),
    "TFLOP/s": ("speed/tflops_per_device", 1, 2, ""),
    "MFU": ("speed/mfu", 100, 1, "%"),
    "waits for data": ("speed/data_wait", 100, 0, "%"),
    "loss": ("train/loss", 1, 4, ""),
}


class Progress(StepCallback):
    """A tqdm bar over optimiser steps; without a terminal its line is printed every `seconds`."""

    def __init__(self, *, seconds: float, telemetry: Telemetry) -> None:
        self.seconds = seconds
        self.telemetry = telemetry
        self.interactive = sys.stdout.isatty()
        self._bar: tqdm[Any] | None = None
        self._first = 0
        self._begin = self._printed = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rates count from here."""
        assert isinstance(pl_module, StepModule)
        self._first, self._begin = trainer.global_step, time.monotonic()
        self._printed = self._begin
        if self.interactive and trainer.is_global_zero:
            self._bar = tqdm(
                total=trainer.max_steps,
                initial=self._first,
                desc=pl_module.doing,
                unit="step",
                dynamic_ncols=True,
            )

    def on_step_end(self, trainer: pl.Trainer, module: StepModule) -> None:
        """One step further."""
        del module
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update()
        if now - self._printed < self.seconds and trainer.global_step < trainer.max_steps:
            return
        self._printed = now
        known = self.telemetry.shown
        shown = {
            word: f"{known[name] * scale:.{digits}f}{unit}"
            for word, (name, scale, digits, unit) in _SHOWN.items()
            if name in known
        }
        if self._bar is not None:
            self._bar.set_postfix(shown)
            return
        # Of the whole session, validation and saving included: what a user waits for.
        rate = (trainer.global_step - self._first) / max(now - self._begin, 1e-9)
        left = tqdm.format_interval((trainer.max_steps - trainer.global_step) / max(rate, 1e-9))
        words = [f"{name} {value}" for name, value in shown.items()]
        step = f"step {trainer.global_step}/{trainer.max_steps}"
        line = ", ".join([step, *words, f"{left} left"])
        print(line, flush=True)  # noqa: T201

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the bar as it is."""
        del trainer, pl_module, stage
        if self._bar is not None:
            self._bar.close()
