"""Optimiser and learning-rate schedule from settings."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import torch
from diffusers.optimization import SchedulerType, get_scheduler
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bksdm import expected
from bksdm.errors import InputError

# Of diffusers' schedules all but those that want more settings.
SCHEDULES: Final = tuple(
    kind.value for kind in SchedulerType if kind is not SchedulerType.PIECEWISE_CONSTANT
)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW with a diffusers schedule; the defaults in `conf/optimizer/adamw.yaml` are BK-SDM's.

    `fused` is torch's one-kernel step; None takes it where the weights lie on a GPU.
    """

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: str
    warmup_steps: int
    fused: bool | None = None

    def __post_init__(self) -> None:
        expected.number("optimizer.lr", self.lr, above=0)
        expected.number("optimizer.eps", self.eps, above=0)
        expected.number("optimizer.weight_decay", self.weight_decay, least=0)
        expected.count("optimizer.warmup_steps", self.warmup_steps, least=0)
        expected.one_of("optimizer.schedule", self.schedule, SCHEDULES)
        if self.fused is not None:
            expected.switch("optimizer.fused", self.fused)
        if not isinstance(self.betas, list | tuple) or len(self.betas) != 2:
            raise InputError(f"optimizer.betas={self.betas}: expected two numbers, [0.9, 0.999]")
        for beta in self.betas:
            expected.number("optimizer.betas", beta, least=0, below=1)
        object.__setattr__(self, "betas", tuple(self.betas))

    def build(self, module: nn.Module, *, max_steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimiser of a module's weights and its schedule, stepped once an optimiser step."""
        optimizer = self.optimizer(list(module.parameters()))
        schedule = get_scheduler(
            self.schedule,
            optimizer,
            num_warmup_steps=self.warmup_steps,
            num_training_steps=max_steps,
        )
        return optimizer, schedule

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """AdamW of these weights."""
        fused = self.fused
        if fused is None:
            fused = all(parameter.is_cuda for parameter in parameters)
        return AdamW(parameters, fused=fused, **self._numbers())

    def _numbers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("lr", "betas", "eps", "weight_decay")}


@dataclass(frozen=True, kw_only=True)
class AdamW8bitSettings(OptimizerSettings):
    """AdamW whose two moments take a byte each, by bitsandbytes: a quarter of the memory, no more
    speed. `fused` is not looked at.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if find_spec("bitsandbytes") is None:
            raise InputError(
                "optimizer=adamw_8bit needs bitsandbytes: pip install 'bksdm[8bit]', or use"
                " optimizer=adamw"
            )

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """AdamW of these weights."""
        from bitsandbytes.optim import AdamW8bit

        optimizer: Optimizer = AdamW8bit(parameters, **self._numbers())
        return optimizer


def clip_gradients(module: nn.Module, max_norm: float) -> torch.Tensor:
    """Clip by global norm with torch's own function: Lightning refuses to, for a fused optimiser
    under autocast.
    """
    norm = nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm  # FSDP2
