"""Zeros that stay zero while a pruned student is trained."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from bksdm.training.ema import Ema, own_shares, share_of
from bksdm.training.module import StepModule

Held = tuple[nn.Parameter, Tensor]


class HeldZeros(pl.Callback):
    """Takes the gradients of pruned weights away, after the backward and before they are clipped:
    so the norm does not count them, Adam's moments and the average keep zeros, and weight decay of
    a zero is zero. Under FSDP2 each process does so for its share.
    """

    def __init__(self, ema: Ema) -> None:
        self.ema = ema
        self._held: list[tuple[str, int, Held]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The masks go where the weights are; a checkpoint has the same zeros as they."""
        del trainer
        assert isinstance(pl_module, StepModule)
        held = held_weights(pl_module.trained, pl_module.masks)
        places = {name: i for i, (name, _) in enumerate(pl_module.trained.named_parameters())}
        self._held = [(name, places[name], each) for name, each in held.items()]
        self._check("weights", own_shares([weight for _, _, (weight, _) in self._held]))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Once an optimiser step, on what all its micro-batches and processes have added up."""
        del trainer, pl_module, optimizer
        hold_zeros(held for _, _, held in self._held)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Nothing is saved that has lost a zero."""
        del trainer, pl_module, checkpoint
        self._check_all()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """And nothing is exported."""
        del trainer, pl_module
        self._check_all()

    def _check_all(self) -> None:
        self._check("weights", own_shares([weight for _, _, (weight, _) in self._held]))
        average = self.ema.average
        if average:
            self._check("average", [average[place] for _, place, _ in self._held])

    @torch.no_grad()
    def _check(self, what: str, shares: list[Tensor]) -> None:
        pairs = zip(shares, self._held, strict=True)
        lost = [share.masked_fill(keep, 0).any() for share, (_, _, (_, keep)) in pairs]
        if lost and torch.stack(lost).any():  # one wait for the device
            names = [name for (name, _, _), each in zip(self._held, lost, strict=True) if each]
            raise RuntimeError(
                f"{len(names)} tensors of the {what} have lost zeros, the first is {names[0]}"
            )


def held_weights(student: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Held]:
    """The weights that have masks, with this process's share of each mask, on its device. All
    processes must ask together.
    """
    weights = dict(student.named_parameters())
    return {
        name: (weights[name], share_of(mask.to(weights[name].device), like=weights[name]))
        for name, mask in masks.items()
    }


def hold_zeros(held: Iterable[Held]) -> None:
    """Take the gradients of the masked weights away, in place."""
    for weight, keep in held:
        if weight.grad is not None:
            grad = weight.grad
            own = grad.to_local() if isinstance(grad, DTensor) else grad
            own.masked_fill_(~keep, 0)  # not multiplied: a NaN would stay


def held_zeros(module: StepModule, ema: Ema) -> list[HeldZeros]:
    """The callback, if the student has masks."""
    return [HeldZeros(ema)] if module.masks else []
