"""When a run is saved: at intervals, at the best validation, at a signal and at the end. Always at
the end of an optimiser step, and after the validation that belongs to it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from bksdm import expected
from bksdm.errors import InputError
from bksdm.training.checkpoint import LAST
from bksdm.training.module import StepModule
from bksdm.training.peers import Peers, raise_if_lost
from bksdm.training.signals import Signals
from bksdm.training.steps import StepCallback
from bksdm.training.telemetry import Telemetry


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When to save, and what stays.

    Attributes:
        every_n_steps: `last` is replaced this often,
        every_minutes: or this often.
        keep_every_n_steps: copies that stay; 0 keeps none.
        best: how many of the best by `metric` stay.
        metric: a validation metric, the lower the better.
        background: written by a thread, while training goes on.
    """

    every_n_steps: int
    every_minutes: float
    keep_every_n_steps: int
    best: int
    metric: str
    background: bool

    def __post_init__(self) -> None:
        for name, least in (("every_n_steps", 1), ("keep_every_n_steps", 0), ("best", 0)):
            expected.count(f"checkpoint.{name}", getattr(self, name), least=least)
        expected.number("checkpoint.every_minutes", self.every_minutes, above=0)
        expected.switch("checkpoint.background", self.background)
        expected.one_of("checkpoint.metric", self.metric, METRICS)

    def best_callback(self, folder: Path) -> list[ModelCheckpoint]:
        """Keeps the best, if any are to be kept."""
        if not self.best:
            return []
        return [
            ModelCheckpoint(
                folder,
                filename="best_step_{step}",
                auto_insert_metric_name=False,
                monitor=self.metric,
                save_top_k=self.best,
                save_on_train_epoch_end=False,
            )
        ]


METRICS = ("val/loss", "val/task", "val/output_kd", "val/feature_kd")


class Checkpoints(StepCallback, Checkpoint):
    """Replaces `last`, and ends the run after a signal. It must be the last callback, so that it
    saves what the others have done.

    Args:
        folder: of the checkpoints.
        settings: when.
        validate_every_n_steps: a save that falls together with a validation comes after it.
        signals: which ask the run to end.
        peers: saving and stopping are things of all processes.
        telemetry: which sees that the weights are numbers.
        saved: is told the step whenever `last` was saved.
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        *,
        validate_every_n_steps: int,
        signals: Signals,
        peers: Peers,
        telemetry: Telemetry,
        saved: Callable[[int], None] | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.validate_every_n_steps = validate_every_n_steps
        self.signals = signals
        self.peers = peers
        self.telemetry = telemetry
        self.saved = saved
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._after_validation: list[str] = []
        self._validated = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What is saved is not saved again; a validation that a signal has left out is made up."""
        del pl_module
        step = self._saved_step = trainer.global_step
        if step and step % self.validate_every_n_steps == 0 and self._validated != step:
            self._after_validation = [LAST]  # or it would be made up twice after a kill
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_step_end(self, trainer: pl.Trainer, module: StepModule) -> None:
        """Save if it is time."""
        del module
        step = trainer.global_step
        late = time.monotonic() - self._saved_at > 60 * self.settings.every_minutes
        late, stop = self.peers.any(late, self.signals.received is not None)
        due = late or step == trainer.max_steps or step % self.settings.every_n_steps == 0
        keep = self.settings.keep_every_n_steps
        copies = [f"step_{step}.ckpt"] * bool(keep and step % keep == 0)
        names = [*copies, *[LAST] * (due or stop)]
        if stop:  # there may be no time for a validation
            self._save(trainer, *names)
            self._stop(trainer)
        elif step % self.validate_every_n_steps == 0:
            self._after_validation = names
        else:
            self._save(trainer, *names)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is validated, or kept as the best, that is no number."""
        del pl_module
        self.telemetry.check(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what waited for it. A signal may have come meanwhile."""
        del pl_module
        self._validated = trainer.global_step
        (stop,) = self.peers.any(self.signals.received is not None)
        names, self._after_validation = self._after_validation, []
        self._save(trainer, *names, *[LAST] * (stop and LAST not in names))
        if stop:
            self._stop(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The step that was validated last."""
        return {"validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse."""
        self._validated = state_dict["validated"]

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep the steps that are done when the data ends the run: a shard that has gone, a full
        disk. With several processes the others would have to save, too, and do not know.
        """
        del pl_module
        raise_if_lost(exception)  # past Lightning's teardown, which would wait for the GPU
        if not isinstance(exception, InputError) or self.peers.group is not None:
            return
        sound = self.telemetry.losses.non_finite(self.peers) is None
        if sound and trainer.global_step > self._saved_step:
            self._save(trainer, LAST)

    def _save(self, trainer: pl.Trainer, *names: str) -> None:
        if not names:
            return
        self.telemetry.check(trainer)
        for logger in trainer.loggers:
            logger.save()  # what a resumed run will not log again
        for name in names:
            trainer.save_checkpoint(self.folder / name)
        if LAST in names:
            self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
            if self.saved is not None:
                self.saved(trainer.global_step)

    def _stop(self, trainer: pl.Trainer) -> None:
        trainer.limit_val_batches = 0  # Lightning would validate once more
        trainer.should_stop = True
