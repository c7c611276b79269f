"""Progress without a terminal: a line now and then, with rate and time left."""

import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl


class ProgressLines(pl.Callback):
    """Prints step, loss, rates and time left every `seconds`."""

    def __init__(self, *, seconds: float, global_batch: int) -> None:
        self.seconds = seconds
        self.global_batch = global_batch
        self._first = (0, 0.0)
        self._last = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rates count from here."""
        del pl_module
        self._last = time.monotonic()
        self._first = (trainer.global_step, self._last)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """A line, if it is time."""
        del pl_module, outputs, args
        now = time.monotonic()
        step = trainer.global_step
        if not trainer.is_global_zero or (
            now - self._last < self.seconds and step < trainer.max_steps
        ):
            return
        self._last = now
        rate = (step - self._first[0]) / max(now - self._first[1], 1e-9)
        left = timedelta(seconds=round((trainer.max_steps - step) / max(rate, 1e-9)))
        loss = trainer.callback_metrics.get("train/loss")
        value = "" if loss is None else f", loss {loss.item():.4f}"
        print(  # noqa: T201
            f"step {step}/{trainer.max_steps}{value}, {rate:.2f} steps/s,"
            f" {rate * self.global_batch:.1f} images/s, {left} left",
            flush=True,
        )
