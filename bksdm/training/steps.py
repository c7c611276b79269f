"""Callbacks that act once an optimiser step. Lightning's own hook comes once a micro-batch."""

from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl

from bksdm.training.distill import Distillation


class StepCallback(pl.Callback, ABC):
    """Calls `on_step_end` after the last micro-batch of each optimiser step."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Lightning's hook."""
        del outputs, batch
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            assert isinstance(pl_module, Distillation)
            self.on_step_end(trainer, pl_module)

    @abstractmethod
    def on_step_end(self, trainer: pl.Trainer, module: Distillation) -> None:
        """What the callback does after an optimiser step."""
