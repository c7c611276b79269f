"""Callbacks that act once an optimiser step. Lightning's own hook comes once a micro-batch."""

from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from bksdm.batch import TextImageBatch
from bksdm.training.module import StepModule


class StepCallback(pl.Callback, ABC):
    """Calls `on_micro_batch` after each micro-batch, and `on_step_end` after the last one of each
    optimiser step.
    """

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Lightning's hook."""
        self.on_micro_batch(outputs, batch)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            assert isinstance(pl_module, StepModule)
            self.on_step_end(trainer, pl_module)

    def on_micro_batch(self, outputs: dict[str, Tensor], batch: TextImageBatch) -> None:
        """What the callback does after each micro-batch, a step's last one included."""

    @abstractmethod
    def on_step_end(self, trainer: pl.Trainer, module: StepModule) -> None:
        """What the callback does after an optimiser step."""
