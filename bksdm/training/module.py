"""What every training of ours has in common: noisy batches of a frozen teacher, an optimiser on one
network, and what goes into checkpoints.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from bksdm.batch import NoisyBatch, TextImageBatch
from bksdm.diffusion import Diffusion, sample_randomness
from bksdm.models.teacher import Teacher
from bksdm.training.optim import OptimizerSettings, clip_gradients
from bksdm.training.predict import sent
from bksdm.training.speed import SpeedSettings


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How any network is trained.

    Attributes:
        optimizer: its optimiser.
        min_snr_gamma: Min-SNR weighting of the task loss; None switches it off.
        gradient_clip: global gradient norm; infinity clips nothing.
        speed: how a step is computed.
    """

    optimizer: OptimizerSettings
    min_snr_gamma: float | None
    gradient_clip: float
    speed: SpeedSettings


class StepModule(pl.LightningModule, ABC):
    """Trains one network beside a frozen teacher, which is held, not registered, so it is in no
    state dict, average or checkpoint.

    Args:
        teacher: the frozen teacher.
        around: the frozen parts that the trained network works with; the teacher itself, but for a
            text encoder of its own.
        settings: of a step.
        identity: plain values that a checkpoint carries and a resuming run must share (teacher,
            data, and what else the method says).
    """

    doing: str  # in front of the progress bar
    term_names: tuple[str, ...]  # names of what `training_step` returns as "terms", the loss last

    def __init__(
        self,
        teacher: Teacher,
        *,
        around: Teacher | None = None,
        settings: StepSettings,
        identity: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        # In a tuple, out of sight of nn.Module (and the Teacher itself is no module).
        self._held = (teacher, around or teacher)
        self.masks: Mapping[str, Tensor] = {}
        self.diffusion = Diffusion.from_scheduler_config(dict(teacher.scheduler.config))
        self.optimizer_settings = settings.optimizer
        self.min_snr_gamma = settings.min_snr_gamma
        self.gradient_clip = settings.gradient_clip
        self.gradient_norm = torch.zeros(())  # before clipping, of the last optimiser step
        self.speed = settings.speed
        self.identity = identity or {}

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The network that is trained, averaged and saved."""

    @abstractmethod
    def flops(self, resolution: int) -> int:
        """Useful FLOPs of a step for each picture of `resolution` pixels a side."""

    @abstractmethod
    def prepare(self, device: torch.device) -> None:
        """Put what is frozen on the device, and everything where and how the steps want it."""

    @property
    def teacher(self) -> Teacher:
        """The frozen teacher."""
        return self._held[0]

    @property
    def around(self) -> Teacher:
        """The frozen parts around the trained network."""
        return self._held[1]

    def setup(self, stage: str) -> None:
        """Lightning's hook: see `prepare`."""
        del stage
        self.prepare(self.trainer.strategy.root_device)

    def noise(self, batch: TextImageBatch) -> NoisyBatch:
        """Encode pictures and captions, unless they are, and noise the latents to random
        timesteps.
        """
        moments, text = self.encoded(batch)
        timesteps, noise, posterior_noise = sample_randomness(
            batch.seeds, (moments.shape[1] // 2, *moments.shape[2:]), steps=self.diffusion.steps
        )
        timesteps, noise, posterior_noise = (
            sent(drawn, self.device) for drawn in (timesteps, noise, posterior_noise)
        )
        latents = self.teacher.scaled_latents(moments, noise=posterior_noise).to(noise.dtype)
        return NoisyBatch(
            latents=self.diffusion.noised(latents, noise, timesteps),
            timesteps=timesteps,
            text=text,
            target=self.diffusion.target(latents, noise, timesteps),
            weights=self.diffusion.min_snr_weights(timesteps, gamma=self.min_snr_gamma),
        )

    def encoded(self, batch: TextImageBatch) -> tuple[Tensor, Tensor]:
        """Moments of the latents (B, 2 C, h, w), and text states (B, T, D)."""
        if batch.moments is not None:
            moments = batch.moments.float()
        else:
            assert batch.pixels is not None
            # As cached ones: what follows is not a network's business, and wants all digits.
            moments = self.teacher.encode_moments(batch.pixels).float()
        if batch.text is not None:
            return moments, batch.text.to(self.teacher.text_encoder.dtype)
        return moments, self.teacher.encode_text(batch.tokens)

    @property
    def cast_teacher(self) -> bool:
        """Whether the teacher runs under autocast. What is bfloat16 already needs none, which would
        compute its norms in float32.
        """
        cast = torch.is_autocast_enabled(self.device.type)
        return cast and next(self.teacher.unet.parameters()).dtype.itemsize > 2

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on the trained network alone."""
        optimizer, schedule = self.optimizer_settings.build(
            self.trained, max_steps=self.trainer.max_steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip the global norm."""
        del optimizer, args, kwargs
        self.gradient_norm = clip_gradients(self.trained, self.gradient_clip)

    def on_train_start(self) -> None:
        """DistributedDataParallel is there now."""
        self.speed.average_gradients(self.trainer.strategy.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the run is of goes into the checkpoint."""
        checkpoint["bksdm"] = self.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Recount Lightning's micro-batches, should this run take more or fewer of them a step."""
        done = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts |= {"ready": done, "started": done, "processed": done, "completed": done - 1}
