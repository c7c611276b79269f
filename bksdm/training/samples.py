"""Sample grids during training: the same prompts and seeds every time; columns teacher, student
before, student now.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from diffusers import UNet2DConditionModel
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.grid import grid
from bksdm.evaluation.prompts import Prompt
from bksdm.export.pipeline import assemble
from bksdm.training.distill import Distillation, ends_step
from bksdm.training.ema import Ema


class SampleGrid(pl.Callback):
    """Draws samples/step_N.png every `every_n_steps` optimiser steps; 0 switches it off."""

    def __init__(
        self,
        folder: Path,
        *,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        every_n_steps: int,
        before: UNet2DConditionModel,
        ema: Ema,
    ) -> None:
        self.folder = folder
        self.prompts = prompts
        self.sampling = sampling
        self.every_n_steps = every_n_steps
        self.before = before
        self.ema = ema
        self._fixed: dict[str, list[Tensor]] = {}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Draw at each multiple of the interval."""
        del outputs, batch
        if not self.every_n_steps or not ends_step(trainer, batch_idx):
            return
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if due and trainer.is_global_zero:
            assert isinstance(pl_module, Distillation)
            self.draw(trainer, pl_module)

    def draw(self, trainer: pl.Trainer, module: Distillation) -> Path:
        """Draw the grid of the averaged student as it is now."""
        if not self._fixed:
            before = self.before.to(module.device).eval()
            self._fixed = {
                "teacher": self._images(module, module.teacher.unet),
                "student before": self._images(module, before),
            }
            self.before.to("cpu")
        module.student.eval()
        with self.ema.applied(module.student):
            now = self._images(module, module.student)
        module.student.train()
        sheet = grid(self._fixed | {"student now": now}, [prompt.text for prompt in self.prompts])
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:06d}.png"
        sheet.save(path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "samples", np.asarray(sheet), trainer.global_step, dataformats="HWC"
                )
        return path

    def _images(self, module: Distillation, unet: UNet2DConditionModel) -> list[Tensor]:
        pipeline = assemble(module.teacher, unet)
        return [image.pixels for image in generate(pipeline, self.prompts, self.sampling)]
