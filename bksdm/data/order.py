"""Which sample is next: a pure function of (seed, index, global batch).

A run is one stream of global positions 0, 1, 2, ...; global batch g is the positions [g B, (g + 1)
B). The stream is cut into epochs of whole global batches. In each epoch the shards are permuted,
and samples are permuted inside windows of a few neighbouring shards. Nothing here has state, so
resuming is starting at a position, on any number of processes.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

from bksdm.errors import InputError

_EPOCH, _WINDOW, _SAMPLE = 0, 1, 2  # separate random streams of one seed


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of the samples of a run.

    Attributes:
        counts: samples in each shard.
        seed: seed of the order, and of everything random about a sample.
        global_batch: samples an optimiser step, over all processes.
        window: shards whose samples are mixed.
    """

    counts: tuple[int, ...]
    seed: int
    global_batch: int
    window: int = 8

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.window < 1:
            raise InputError(
                f"global batch {self.global_batch} and window {self.window}: both must be at"
                " least 1"
            )
        if sum(self.counts) < self.global_batch:
            raise InputError(
                f"the shards hold {sum(self.counts)} samples, less than one global batch of"
                f" {self.global_batch}; use a smaller data.global_batch or more data"
            )

    @property
    def epoch_size(self) -> int:
        """Samples of an epoch: whole global batches; what remains is left out, other samples every
        epoch.
        """
        total = sum(self.counts)
        return total - total % self.global_batch

    def sample(self, position: int) -> tuple[int, int]:
        """(shard, row) of the sample at a global position."""
        epoch, offset = divmod(position, self.epoch_size)
        starts, groups = _windows(self, epoch)
        window = bisect_right(starts, offset) - 1
        shards = groups[window]
        row = int(_permutation(self, epoch, window)[offset - starts[window]])
        for shard in shards:
            if row < self.counts[shard]:
                return shard, row
            row -= self.counts[shard]
        raise AssertionError("a window's permutation covers its shards")

    def sample_seed(self, position: int) -> int:
        """Seed of everything random about the sample at a global position, below 2**63."""
        words = np.random.SeedSequence((self.seed, _SAMPLE, position)).generate_state(1, np.uint64)
        return int(words[0] >> 1)

    def micro_batches(
        self, *, first_step: int, last_step: int, batch: int, rank: int, world: int
    ) -> Iterator[range]:
        """Positions of each micro-batch of `rank`, for optimiser steps [first_step, last_step)."""
        for micro in range(
            first_step * self.accumulation(batch, world),
            last_step * self.accumulation(batch, world),
        ):
            start = (micro * world + rank) * batch
            yield range(start, start + batch)

    def accumulation(self, batch: int, world: int) -> int:
        """Micro-batches an optimiser step.

        Raises:
            InputError: the global batch is no multiple of what all processes take at once.
        """
        count, rest = divmod(self.global_batch, batch * world)
        if rest or not count:
            raise InputError(
                f"data.global_batch={self.global_batch} is no multiple of data.batch_size={batch} x"
                f" {world} processes"
            )
        return count


@lru_cache(maxsize=4)
def _windows(order: Order, epoch: int) -> tuple[list[int], list[list[int]]]:
    shards = (
        np.random.default_rng((order.seed, _EPOCH, epoch)).permutation(len(order.counts)).tolist()
    )
    groups = [shards[i : i + order.window] for i in range(0, len(shards), order.window)]
    sizes = [sum(order.counts[shard] for shard in group) for group in groups]
    return [0, *accumulate(sizes)][:-1], groups


@lru_cache(maxsize=4)
def _permutation(order: Order, epoch: int, window: int) -> np.ndarray:
    _, groups = _windows(order, epoch)
    size = sum(order.counts[shard] for shard in groups[window])
    return np.random.default_rng((order.seed, _WINDOW, epoch, window)).permutation(size)
