"""The losses of an optimiser step, added up on the device. Nothing waits for the device until
somebody reads them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bksdm.training.peers import Peers

GRADIENT_NORM: Final = "gradient_norm"


@dataclass(frozen=True)
class NonFinite:
    """The first step whose losses or gradients are no numbers any more.

    Attributes:
        step: optimiser steps that were done before it.
        values: the losses, by process and name.
    """

    step: int
    values: list[dict[str, float]]


class StepLosses:
    """Means over a step's micro-batches; over the processes when they are read.

    Args:
        terms: names of what a micro-batch gives, in its order.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        self._names = (*terms, GRADIENT_NORM)
        self._sum: Tensor | None = None
        self._micro_batches = 0
        self._last: Tensor | None = None
        self._bad: Tensor | None = None  # step and values of the first non-finite one, or -1

    def add(self, terms: Tensor) -> None:
        """One micro-batch's terms (number of names,)."""
        self._sum = terms.float() if self._sum is None else self._sum + terms
        self._micro_batches += 1

    def finish(self, *, step: int, gradient_norm: Tensor) -> None:
        """The step has ended, and `step` others before it."""
        assert self._sum is not None
        norm = gradient_norm.to(self._sum).reshape(1)
        self._last = torch.cat([self._sum / self._micro_batches, norm])
        self._sum, self._micro_batches = None, 0
        # Filled on the device: a number that is copied there would be waited for.
        now = torch.cat([self._last.new_full((1,), step).double(), self._last.double()])
        if self._bad is None:
            self._bad = torch.full_like(now, -1)
        new = (self._bad[0] < 0) & ~self._last.isfinite().all()
        self._bad = torch.where(new, now, self._bad)

    def read(self, peers: Peers) -> dict[str, float]:
        """Of the step that has ended last: the mean over the processes, whose share of a batch is
        the same. All of them must call it.
        """
        assert self._last is not None
        values = peers.gathered(self._last.tolist())
        means = [math.fsum(column) / len(values) for column in zip(*values, strict=True)]
        return dict(zip(self._names, means, strict=True))

    def non_finite(self, peers: Peers) -> NonFinite | None:
        """The first step that went wrong in any process. All of them must call it."""
        if self._bad is None:
            return None
        rows = peers.gathered(self._bad.tolist())
        steps = [int(row[0]) for row in rows if row[0] >= 0]
        if not steps:
            return None
        first = min(steps)
        values = [
            dict(zip(self._names, row[1:], strict=True)) if int(row[0]) == first else {}
            for row in rows
        ]
        return NonFinite(first, values)
