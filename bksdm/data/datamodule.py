"""Shards to batches for the Trainer: any process and any worker reads what the order says, from any
step on.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from bksdm.batch import TextImageBatch
from bksdm.data.index import ShardIndex, build_index
from bksdm.data.order import Order
from bksdm.data.shards import ShardDataset, collate
from bksdm.errors import InputError

VALIDATION_SEED = 20_230_525  # validation noise is the same in every run, whatever its seed


class _Batches:
    """Batch sampler of one process. Its length is that of the whole run, as Lightning counts
    batches from the run's start.
    """

    def __init__(
        self, order: Order, *, batch: int, rank: int, world: int, first_step: int, last_step: int
    ) -> None:
        self.order, self.batch, self.rank, self.world = order, batch, rank, world
        self.first_step, self.last_step = first_step, last_step

    def __len__(self) -> int:
        return self.last_step * self.order.accumulation(self.batch, self.world)

    def __iter__(self) -> Iterator[range]:
        return self.order.micro_batches(
            first_step=self.first_step,
            last_step=self.last_step,
            batch=self.batch,
            rank=self.rank,
            world=self.world,
        )


class ShardDataModule(pl.LightningDataModule):
    """Training and validation shards.

    The whole run is one epoch to Lightning; the epochs of the data are the order's business. The
    only resume state is the trainer's own count of optimiser steps.
    """

    def __init__(
        self,
        *,
        shards: str | Sequence[str],
        validation_shards: str | Sequence[str],
        resolution: int,
        batch_size: int,
        global_batch: int,
        seed: int,
        flip: bool,
        caption_dropout: float,
        workers: int,
        window: int,
        validation_samples: int,
        tokenizer: Any,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size={batch_size}: expected at least 1")
        self.index: ShardIndex = build_index(shards)
        self.order = Order(
            counts=self.index.counts, seed=seed, global_batch=global_batch, window=window
        )
        self.batch_size = batch_size
        self.workers = workers
        self._settings: dict[str, Any] = {"tokenizer": tokenizer, "resolution": resolution}
        self._training = self._dataset(
            self.index, self.order, flip=flip, caption_dropout=caption_dropout
        )
        validation = build_index(validation_shards)
        self.validation_samples = min(validation_samples, sum(validation.counts))
        order = Order(
            counts=validation.counts, seed=VALIDATION_SEED, global_batch=self.validation_samples
        )
        self._validation = self._dataset(validation, order, flip=False, caption_dropout=0.0)

    def _dataset(
        self, index: ShardIndex, order: Order, *, flip: bool, caption_dropout: float
    ) -> ShardDataset:
        return ShardDataset(
            index, order, flip=flip, caption_dropout=caption_dropout, **self._settings
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must not change when a run resumes."""
        return {
            "index": self.index.fingerprint,
            "seed": self.order.seed,
            "global_batch": self.order.global_batch,
        }

    def train_dataloader(self) -> DataLoader[TextImageBatch]:
        """The remaining micro-batches of the run, for this process."""
        assert self.trainer is not None
        batches = _Batches(
            self.order,
            batch=self.batch_size,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            first_step=self.trainer.global_step,
            last_step=self.trainer.max_steps,
        )
        return self._loader(self._training, batches)

    def val_dataloader(self) -> DataLoader[TextImageBatch]:
        """The validation samples of this process; their noise is always the same."""
        assert self.trainer is not None
        mine = range(self.trainer.global_rank, self.validation_samples, self.trainer.world_size)
        chunks = [mine[i : i + self.batch_size] for i in range(0, len(mine), self.batch_size)]
        return self._loader(self._validation, chunks)

    def transfer_batch_to_device(
        self, batch: TextImageBatch, device: torch.device, dataloader_idx: int
    ) -> TextImageBatch:
        """The batch is a frozen value: Lightning's own way would write into it."""
        del dataloader_idx
        return batch.to(device, non_blocking=True)

    def _loader(self, dataset: ShardDataset, batches: Any) -> DataLoader[TextImageBatch]:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )
