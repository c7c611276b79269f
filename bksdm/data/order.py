"""Which sample is next: a pure function of (seed, epoch, index, global batch).

A run is one stream of global positions 0, 1, 2, ...; global batch g is the positions [g B, (g + 1)
B). The stream is cut into epochs of whole global batches. In each epoch the shards are permuted,
and samples are permuted inside windows of a few neighbouring shards. Nothing here has state, so
resuming is starting at a position, on any number of processes; and nothing is larger than the list
of shards or one window, however many samples there are.

Lanes keep nodes from reading each other's shards: lane l of L runs through its own L-th of the
epoch and gives every global batch its l-th slice, so that a process, whose part of a global batch
is contiguous, reads the shards of its lanes alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from bksdm.errors import InputError

_EPOCH, _WINDOW, _SAMPLE = 0, 1, 2  # separate random streams of one seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """The order of the samples of a run.

    Attributes:
        counts: samples in each shard.
        seed: seed of the order, and of everything random about a sample.
        global_batch: samples an optimiser step, over all processes.
        window: shards whose samples are mixed.
        lanes: parts of the epoch that are read side by side; the number of nodes, or a multiple.
        remainder: what an epoch does with samples that fill no global batch: "drop" leaves them
            out, others every epoch; "wrap" fills up with the epoch's first ones.
    """

    counts: Sequence[int]
    seed: int
    global_batch: int
    window: int = 8
    lanes: int = 1
    remainder: Literal["drop", "wrap"] = "drop"

    def __post_init__(self) -> None:
        for name in ("global_batch", "window", "lanes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"data.{name}={value}: expected a number, at least 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"seed={self.seed}: expected a number, at least 0")
        if self.remainder not in ("drop", "wrap"):
            raise InputError(f"data.remainder={self.remainder}: expected drop or wrap")
        if self.global_batch % self.lanes:
            raise InputError(
                f"data.global_batch={self.global_batch} is no multiple of data.lanes={self.lanes}"
            )
        if not self.steps_per_epoch:
            raise InputError(
                f"{self.samples} samples to train on, less than one global batch of"
                f" {self.global_batch}; use a smaller data.global_batch, more data, or"
                " data.remainder=wrap"
            )

    @property
    def samples(self) -> int:
        """Samples of the data set."""
        return _epoch(self, 0).samples

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch."""
        whole, rest = divmod(self.samples, self.global_batch)
        return whole + (self.remainder == "wrap" and rest > 0)

    @property
    def epoch_size(self) -> int:
        """Positions of an epoch."""
        return self.steps_per_epoch * self.global_batch

    def sample(self, position: int) -> tuple[int, int]:
        """(shard, row) of the sample at a global position."""
        epoch, place = self._place(position)
        return self._at(epoch, place)

    def shards_ahead(self, positions: Sequence[int], *, windows: int) -> list[int]:
        """The shards that samples at these positions come from and those that follow them in their
        lanes, also into the next epoch: what a cache of remote shards should hold.

        Args:
            positions: of a batch.
            windows: of each lane, the one being read included.
        """
        share = self.global_batch // self.lanes
        firsts = {position % self.global_batch // share: position for position in positions[::-1]}
        ahead: dict[int, None] = {}
        for lane, position in firsts.items():
            epoch, place = self._place(position)
            ahead |= dict.fromkeys(self._lane_ahead(epoch, place, lane=lane, windows=windows))
        return list(ahead)

    def _lane_ahead(self, epoch: int, place: int, *, lane: int, windows: int) -> list[int]:
        share = self.global_batch // self.lanes * self.steps_per_epoch
        layout = _epoch(self, epoch)
        first = layout.window_of(place)
        last = layout.window_of(min((lane + 1) * share, self.samples) - 1)
        chosen = range(first, min(first + windows, last + 1))
        shards = [shard for window in chosen for shard in layout.group(window)]
        left = windows - len(chosen)
        if left > 0:
            following = _epoch(self, epoch + 1)
            first = following.window_of(lane * share % self.samples)
            for window in range(first, min(first + left, len(following.starts))):
                shards += following.group(window)
        return shards

    def sample_seed(self, position: int) -> int:
        """Seed of everything random about the sample at a global position, below 2**63."""
        words = np.random.SeedSequence((self.seed, _SAMPLE, position)).generate_state(1, np.uint64)
        return int(words[0] >> 1)

    def micro_batches(
        self, *, first_step: int, last_step: int, batch: int, rank: int, world: int
    ) -> Iterator[range]:
        """Positions of each micro-batch of `rank`, for optimiser steps [first_step, last_step).

        A process takes a contiguous part of every global batch.
        """
        micro_batches = self.accumulation(batch, world)
        for step in range(first_step, last_step):
            start = step * self.global_batch + rank * micro_batches * batch
            for micro in range(micro_batches):
                yield range(start + micro * batch, start + (micro + 1) * batch)

    def accumulation(self, batch: int, world: int) -> int:
        """Micro-batches an optimiser step.

        Raises:
            InputError: the global batch is no multiple of what all processes take at once.
        """
        return accumulation(self.global_batch, batch=batch, world=world)

    def _place(self, position: int) -> tuple[int, int]:
        """(epoch, place in the epoch's permuted stream) of a global position."""
        batch, slot = divmod(position, self.global_batch)
        epoch, step = divmod(batch, self.steps_per_epoch)
        share = self.global_batch // self.lanes
        lane, offset = divmod(slot, share)
        return epoch, ((lane * self.steps_per_epoch + step) * share + offset) % self.samples

    def _at(self, epoch: int, place: int) -> tuple[int, int]:
        layout = _epoch(self, epoch)
        window = layout.window_of(place)
        row = int(_permutations(self)(epoch, window)[place - int(layout.starts[window])])
        for shard in layout.group(window):
            if row < self.counts[shard]:
                return shard, row
            row -= self.counts[shard]
        raise AssertionError("a window's permutation covers its shards")


def accumulation(global_batch: int, *, batch: int, world: int) -> int:
    """Micro-batches an optimiser step.

    Raises:
        InputError: the global batch is no multiple of what all processes take at once.
    """
    count, rest = divmod(global_batch, batch * world)
    if not rest and count:
        return count
    told = (
        f"data.global_batch={global_batch} is no multiple of data.batch_size={batch} x {world}"
        " processes"
    )
    if global_batch % world:
        raise InputError(f"{told}, nor of the processes alone; take another number of them")
    share = global_batch // world
    fits = next(size for size in range(min(batch, share), 0, -1) if share % size == 0)
    raise InputError(f"{told}; use data.batch_size={fits}, which changes no result")


@dataclass(frozen=True, eq=False)
class _Epoch:
    """The permuted shards of an epoch, and where each window begins among its samples."""

    shards: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    window: int
    samples: int

    def window_of(self, place: int) -> int:
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def group(self, window: int) -> list[int]:
        shards: list[int] = self.shards[window * self.window : (window + 1) * self.window].tolist()
        return shards


@lru_cache(maxsize=8)
def _epoch(order: Order, epoch: int) -> _Epoch:
    counts = np.asarray(order.counts, dtype=np.int64)
    shards = np.random.default_rng((order.seed, _EPOCH, epoch)).permutation(len(counts))
    sizes = (
        np.add.reduceat(counts[shards], np.arange(0, len(counts), order.window))
        if len(counts)
        else counts
    )
    return _Epoch(shards, np.cumsum(sizes) - sizes, order.window, int(counts.sum()))


@lru_cache(maxsize=8)
def _permutations(order: Order) -> Callable[[int, int], npt.NDArray[np.uint32]]:
    """The permutations of an order's windows, as many cached as its lanes read at once."""

    @lru_cache(maxsize=2 * order.lanes + 2)
    def permutation(epoch: int, window: int) -> npt.NDArray[np.uint32]:
        size = sum(order.counts[shard] for shard in _epoch(order, epoch).group(window))
        generator = np.random.default_rng((order.seed, _WINDOW, epoch, window))
        return generator.permutation(size).astype(np.uint32)

    return permutation
