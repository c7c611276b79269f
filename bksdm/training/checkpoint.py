"""Checkpoints that survive: written at intervals, at a signal and at the end, always at a step
boundary and atomically.

A checkpoint holds student, average, optimiser, plan, teacher id, data fingerprint and versions:
tensors and plain values only, so that it loads with `weights_only=True`. Never a teacher tensor.
"""

import math
import os
import pickle
import signal
import time
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from diffusers import UNet2DConditionModel
from pytorch_lightning.plugins.io import TorchCheckpointIO

from bksdm.errors import InputError
from bksdm.training.distill import Distillation
from bksdm.training.steps import StepCallback

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, in the target's own file system.

    Lightning's own way goes through memory and a temporary folder: where that is another file
    system, a kill while it copies leaves half a checkpoint in place of a whole one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """All or nothing, and on disk before the old one goes."""
        del storage_options
        target = Path(path)
        temporary = target.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)


class Checkpoints(StepCallback):
    """Replaces `last` every `every_n_steps`, at the end, and when a signal comes, which also ends
    the run.

    It must be the last callback, so that it saves what the others have done.

    Attributes:
        received: the signal that ended the run, or None. A second Ctrl-C stops at once, without
            saving.
    """

    def __init__(
        self,
        last: Path,
        *,
        every_n_steps: int,
        every_minutes: float = math.inf,
        keep_every_n_steps: int = 0,
    ) -> None:
        if every_n_steps < 1 or keep_every_n_steps < 0:
            raise InputError(
                f"checkpoint.every_n_steps={every_n_steps},"
                f" keep_every_n_steps={keep_every_n_steps}: expected at least 1 and at least 0"
            )
        self.last = last
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.keep_every_n_steps = keep_every_n_steps
        self.received: signal.Signals | None = None
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from the default signal handlers, and from Lightning's."""
        del pl_module
        self._saved_step = trainer.global_step
        self._previous = {number: signal.signal(number, self._remember) for number in _SIGNALS}

    def on_step_end(self, trainer: pl.Trainer, module: Distillation) -> None:
        """Save if it is time."""
        del module
        step = trainer.global_step
        late = time.monotonic() - self._saved_at > 60 * self.every_minutes
        last = step == trainer.max_steps
        stop = self.received is not None
        if trainer.world_size > 1:  # saving is a thing of all processes, and so is stopping
            decide = trainer.strategy.reduce_boolean_decision
            late, stop = decide(late, all=False), decide(stop, all=False)
        if late or last or step % self.every_n_steps == 0 or stop:
            self._save(trainer)
        if self.keep_every_n_steps and step % self.keep_every_n_steps == 0:
            trainer.save_checkpoint(self.last.with_name(f"step_{step}.ckpt"))
        if stop:
            trainer.should_stop = True

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep the steps that are done when the data ends the run: a shard that has gone, a full
        disk. With several processes the others would have to save, too, and do not know.
        """
        del pl_module
        ours = isinstance(exception, InputError)
        if ours and trainer.world_size == 1 and trainer.global_step > self._saved_step:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # what a resumed run will not log again
        trainer.save_checkpoint(self.last)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        del trainer, pl_module, stage
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of ours on the CPU.

    Raises:
        InputError: it is missing, broken, or not one of ours.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        content["bksdm"]["student_config"]
    except FileNotFoundError:
        raise InputError(f"no checkpoint at {path}") from None
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); restore it from a copy, or"
            " move it away to begin again"
        ) from error
    return content


def load_student(path: Path, *, weights: Literal["ema", "raw"] = "ema") -> UNet2DConditionModel:
    """The student that a checkpoint holds, with its averaged or its raw weights."""
    content = read_checkpoint(path)
    student: UNet2DConditionModel = UNet2DConditionModel.from_config(
        content["bksdm"]["student_config"]
    )
    prefix = "student."
    student.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in content["state_dict"].items()}
    )
    if weights == "ema":
        with torch.no_grad():
            average = content["callbacks"]["Ema"]["shadow_params"]
            for parameter, value in zip(student.parameters(), average, strict=True):
                parameter.copy_(value)
    return student.eval()
