"""Sample grids during training: the same prompts and seeds every time; columns teacher, student
before, student now.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers import UNet2DConditionModel
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.distributed.tensor import DTensor

from bksdm import expected
from bksdm.errors import InputError
from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.grid import grid
from bksdm.evaluation.prompts import Prompt
from bksdm.export.pipeline import assemble
from bksdm.models.teacher import Teacher
from bksdm.training.distill import Distillation
from bksdm.training.ema import Ema
from bksdm.training.module import StepModule
from bksdm.training.peers import Peers
from bksdm.training.steps import StepCallback


class SampleGrid(StepCallback):
    """Draws samples/step_N.png every `every_n_steps` optimiser steps; 0 switches it off."""

    def __init__(
        self,
        folder: Path,
        *,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        every_n_steps: int,
        before: Callable[[], UNet2DConditionModel],
        ema: Ema,
        peers: Peers,
    ) -> None:
        expected.count("samples.every_n_steps", every_n_steps, least=0)
        if every_n_steps and not prompts:
            raise InputError(
                "samples.prompts=[]: expected at least one, or samples.every_n_steps=0"
            )
        self.folder = folder
        self.prompts = prompts
        self.sampling = sampling
        self.every_n_steps = every_n_steps
        self.before = before
        self.ema = ema
        self.peers = peers
        self._fixed: dict[str, list[Tensor]] = {}

    def on_step_end(self, trainer: pl.Trainer, module: StepModule) -> None:
        """Draw at each multiple of the interval, and at the end."""
        step = trainer.global_step
        due = self.every_n_steps and (step % self.every_n_steps == 0 or step == trainer.max_steps)
        if due:
            assert isinstance(module, Distillation)
            self.draw(trainer, module)

    def draw(self, trainer: pl.Trainer, module: Distillation) -> None:
        """Draw the grid of the averaged student as it is now; the processes share the prompts."""
        if not self._fixed:
            before = self.before().to(module.device).eval()
            self._fixed = {
                "teacher": self._images(module.teacher, module.teacher.unet),
                "student before": self._images(module.around, before),
            }
        module.student.eval()
        with self.ema.applied(module.student):
            now = self._images(module.around, module.student)
        module.student.train()
        if not self.peers.process.first:
            return
        sheet = grid(self._fixed | {"student now": now}, [prompt.text for prompt in self.prompts])
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:06d}.png"
        sheet.save(path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "samples", np.asarray(sheet), trainer.global_step, dataformats="HWC"
                )

    def _images(self, around: Teacher, unet: UNet2DConditionModel) -> list[Tensor]:
        pipeline = assemble(around, unet)
        # All forwards of a student that is shared out (FSDP2) are made together.
        together = isinstance(next(unet.parameters()), DTensor)
        world = 1 if together else self.peers.process.world
        mine = self.prompts if together else self.prompts[self.peers.process.rank :: world]
        frozen = around.unet.dtype  # of the text states, too, which a float32 U-Net gets
        with torch.autocast(around.unet.device.type, dtype=frozen, enabled=unet.dtype != frozen):
            drawn = [image.pixels for image in generate(pipeline, mine, self.sampling)]
        shares = self.peers.gathered(drawn)
        return [shares[i % world][i // world] for i in range(len(self.prompts))]
