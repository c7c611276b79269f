"""Training data in the order that `order.Order` says, resumable at any step by any number of
processes and workers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from bksdm.batch import TextImageBatch
from bksdm.data.index import ShardIndex
from bksdm.data.order import Order
from bksdm.data.samples import ShardDataset, whole


@dataclass(frozen=True)
class Share:
    """What a process has to load of a run.

    Attributes:
        batch: samples of a micro-batch.
        rank: of the process.
        world: number of processes.
        first_step: optimiser steps that are done.
        last_step: of the run.
    """

    batch: int
    rank: int
    world: int
    first_step: int
    last_step: int


@dataclass(frozen=True)
class Loading:
    """How loaders run; what they load does not depend on it.

    Attributes:
        workers: processes.
        start_method: of the processes; None for Python's own choice.
    """

    workers: int
    start_method: Literal["fork", "forkserver", "spawn"] | None

    def loader(self, dataset: Any, **arguments: Any) -> DataLoader[TextImageBatch]:
        """A loader of a dataset that makes whole batches."""
        return DataLoader(
            dataset,
            num_workers=self.workers,
            multiprocessing_context=self.start_method if self.workers else None,
            collate_fn=whole,
            pin_memory=torch.cuda.is_available(),
            **arguments,
        )


class Batches:
    """Batch sampler of one process. Its length is that of the whole run, as Lightning counts
    batches from the run's start.
    """

    def __init__(self, order: Order, share: Share) -> None:
        self.order, self.share = order, share

    def __len__(self) -> int:
        return self.share.last_step * self.order.accumulation(self.share.batch, self.share.world)

    def __iter__(self) -> Iterator[range]:
        return self.order.micro_batches(
            first_step=self.share.first_step,
            last_step=self.share.last_step,
            batch=self.share.batch,
            rank=self.share.rank,
            world=self.share.world,
        )


@dataclass(frozen=True)
class ExactTraining:
    """Indexed shards, read in order.

    Attributes:
        index: of all shards.
        order: of the samples.
        dataset: makes batches of them; of a selection, it has its own index of the shards in it.
        selection: what a checkpoint keeps of what is selected; None for all samples.
    """

    index: ShardIndex
    order: Order
    dataset: ShardDataset
    selection: str | None = None

    @property
    def description(self) -> str:
        """In words."""
        kind = "latents" if self.index.format else "pictures"
        samples, shards = f"{self.index.samples:,}", f"{len(self.index.shards):,}"
        if self.selection is not None:
            samples = f"{self.order.samples:,} of {samples}"
            shards = f"{len(self.dataset.reader.index.shards):,} of {shards}"
        return f"{samples} {kind} in {shards} shards"

    def fingerprint(self) -> dict[str, Any]:
        """What must not change when a run resumes."""
        names = ("seed", "global_batch", "window", "lanes", "remainder")
        chosen = {} if self.selection is None else {"selection": self.selection}
        order = {name: getattr(self.order, name) for name in names}
        return {
            "order": {"mode": "exact", **order, **chosen},
            "training": self.index.record(),
        }

    def samples_of(self, step: int) -> list[str]:
        """ "shard/key" of an optimiser step's samples, by global position."""
        batch = self.order.global_batch
        found = [self.dataset.sample(step * batch + place) for place in range(batch)]
        reader = self.dataset.reader
        shards = reader.index.shards
        return [f"{shards[shard].name}/{reader.key(shard, row)}" for shard, row in found]

    def loader(self, share: Share, loading: Loading) -> DataLoader[TextImageBatch]:
        """The micro-batches of a process's share of the run."""
        return loading.loader(self.dataset, batch_sampler=Batches(self.order, share))
