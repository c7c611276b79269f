"""Optimiser and learning-rate schedule from settings."""

from dataclasses import dataclass

import torch
from diffusers.optimization import SchedulerType, get_scheduler
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bksdm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW with a diffusers schedule; the defaults in `conf/optimizer/adamw.yaml` are BK-SDM's."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: str
    warmup_steps: int

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise InputError(f"optimizer.lr={self.lr}: expected more than 0")
        object.__setattr__(self, "betas", tuple(self.betas))
        names = [kind.value for kind in SchedulerType]
        if self.schedule not in names:
            raise InputError(f"optimizer.schedule={self.schedule}: expected one of {names}")

    def build(self, module: nn.Module, *, max_steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimiser of a module's weights (fused on CUDA) and its schedule, stepped once an
        optimiser step.
        """
        fused = all(parameter.is_cuda for parameter in module.parameters())
        optimizer = AdamW(
            module.parameters(),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=fused,
        )
        schedule = get_scheduler(
            self.schedule,
            optimizer,
            num_warmup_steps=self.warmup_steps,
            num_training_steps=max_steps,
        )
        return optimizer, schedule


def clip_gradients(module: nn.Module, max_norm: float) -> torch.Tensor:
    """Clip by global norm with torch's own function: Lightning refuses to, for a fused optimiser
    under autocast.
    """
    return nn.utils.clip_grad_norm_(module.parameters(), max_norm)
