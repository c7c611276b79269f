"""Exponential moving average of the student, by diffusers' EMAModel.

Its decay after n steps is min(decay, (1 + n) / (10 + n)).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
from diffusers.training_utils import EMAModel
from torch import nn

from bksdm.training.distill import Distillation
from bksdm.training.steps import StepCallback


class Ema(StepCallback):
    """Averages the student after each optimiser step; validation and samples see the average."""

    def __init__(self, *, decay: float) -> None:
        self.decay = decay
        self._average: EMAModel | None = None
        self._saved: dict[str, Any] | None = None
        self._validating = ExitStack()

    @contextmanager
    def applied(self, student: nn.Module) -> Iterator[None]:
        """The student has the averaged weights inside this block."""
        if self._average is None:
            yield
            return
        parameters = list(student.parameters())
        self._average.store(parameters)
        self._average.copy_to(parameters)
        try:
            yield
        finally:
            self._average.restore(parameters)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the student's weights, on their device, or from the checkpoint's average."""
        del trainer
        assert isinstance(pl_module, Distillation)
        self._average = EMAModel(pl_module.student.parameters(), decay=self.decay, foreach=True)
        if self._saved is not None:
            self._average.load_state_dict(self._saved)
        self._average.to(pl_module.device)

    def on_step_end(self, trainer: pl.Trainer, module: Distillation) -> None:
        """Average once an optimiser step, not once a micro-batch."""
        del trainer
        assert self._average is not None
        self._average.step(module.student.parameters())

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the average."""
        del trainer
        assert isinstance(pl_module, Distillation)
        self._validating.enter_context(self.applied(pl_module.student))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the raw weights."""
        del trainer, pl_module
        self._validating.close()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""
        return {} if self._average is None else self._average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until training starts, when the student is on its device."""
        self._saved = state_dict or None
