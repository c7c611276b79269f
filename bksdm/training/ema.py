"""Exponential moving average of the trained network, by diffusers' EMAModel.

Its decay after n steps is min(decay, (1 + n) / (10 + n)).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from bksdm import expected
from bksdm.training.module import StepModule
from bksdm.training.steps import StepCallback


class Ema(StepCallback):
    """Averages the network after each optimiser step; validation and samples see the average.

    Under FSDP2 each process averages its share of the weights; checkpoints hold all of it.
    """

    def __init__(self, *, decay: float) -> None:
        expected.number("ema_decay", decay, least=0, below=1)
        self.decay = decay
        self._average: EMAModel | None = None
        self._weights: list[nn.Parameter] = []
        self._saved: dict[str, Any] | None = None
        self._validating = ExitStack()

    @property
    def average(self) -> list[Tensor]:
        """What this process has of each averaged weight, in the network's order; empty
        before training.
        """
        return [] if self._average is None else list(self._average.shadow_params)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network has the averaged weights inside this block."""
        if self._average is None:
            yield
            return
        _share_out(network)
        weights = own_shares(self._weights)
        self._average.store(weights)
        self._average.copy_to(weights)
        try:
            yield
        finally:
            _share_out(network)  # or the next step would take the average for the weights
            self._average.restore(weights)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the network's weights, on their device, or from the checkpoint's average."""
        del trainer
        assert isinstance(pl_module, StepModule)
        self._weights = list(pl_module.trained.parameters())
        self._average = EMAModel(own_shares(self._weights), decay=self.decay, foreach=True)
        if self._saved is not None:
            saved = zip(self._saved["shadow_params"], self._weights, strict=True)
            shares = [share_of(tensor, like=weight) for tensor, weight in saved]
            self._average.load_state_dict({**self._saved, "shadow_params": shares})
        self._average.to(pl_module.device)

    def on_step_end(self, trainer: pl.Trainer, module: StepModule) -> None:
        """Average once an optimiser step, not once a micro-batch."""
        del trainer, module
        assert self._average is not None
        self._average.step(own_shares(self._weights))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the average."""
        del trainer
        assert isinstance(pl_module, StepModule)
        self._validating.enter_context(self.applied(pl_module.trained))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the raw weights."""
        del trainer, pl_module
        self._validating.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """The same where a validation has not ended: whoever saves now saves the raw weights."""
        del trainer, pl_module, exception
        self._validating.close()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers; all processes must ask together."""
        if self._average is None:
            return {}
        state = self._average.state_dict()
        shares = zip(state["shadow_params"], self._weights, strict=True)
        whole = [whole_of(share, like=weight) for share, weight in shares]
        return {**state, "shadow_params": whole}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until training starts, when the network is on its device."""
        self._saved = state_dict or None


def _share_out(network: nn.Module) -> None:
    """Under FSDP2 a forward without a backward leaves the root's own weights whole; what is then
    written into the shares would not be seen.
    """
    if isinstance(network, FSDPModule):
        network.reshard()


def own_shares(weights: list[nn.Parameter]) -> list[Tensor]:
    """What this process has of each weight: all of it, but under FSDP2. The memory is the same."""
    return [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]


def share_of(whole: Tensor, *, like: Tensor) -> Tensor:
    """This process's share of a tensor that is shared out like another."""
    if not isinstance(like, DTensor):
        return whole
    shared = distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
    local: Tensor = shared.to_local()
    return local


def whole_of(share: Tensor, *, like: Tensor) -> Tensor:
    """The inverse; all processes must ask together."""
    if not isinstance(like, DTensor):
        return share
    shared = DTensor.from_local(
        share, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
    return shared.full_tensor()
