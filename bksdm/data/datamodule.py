"""Shards to batches for the Trainer: any process and any worker reads what the order says, from any
step on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from bksdm.batch import TextImageBatch
from bksdm.data.index import build_index
from bksdm.data.latents import check_format
from bksdm.data.order import Order
from bksdm.data.samples import (
    Latents,
    Pictures,
    SampleSettings,
    ShardDataset,
    token_ids,
    whole,
)
from bksdm.data.shards import ShardReader
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.errors import InputError
from bksdm.models.teacher import Teacher

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
    """Training and validation shards, of pictures or of latents.

    The whole run is one epoch to Lightning; the epochs of the data are the order's business. The
    only resume state is the trainer's own count of optimiser steps.

    Args:
        shards: locations of the training shards (see `location.expand`).
        validation_shards: of the validation shards.
        resolution: pixels of a side.
        batch_size: samples a process and micro-batch.
        global_batch: samples an optimiser step.
        seed: of the order, and of everything random about a sample.
        flip: mirror half of the pictures.
        caption_dropout: probability of the empty caption.
        workers: loader processes.
        start_method: of the loader processes; None for Python's own choice.
        window: shards whose samples are mixed.
        lanes: parts of an epoch that are read side by side, a multiple of the number of nodes.
        remainder: "drop" or "wrap" what does not fill a global batch.
        validation_samples: how many of them are used.
        max_bad_fraction: bad samples above which the run stops.
        accept_changed: resume although the data has changed.
        cache: where remote shards are kept.
        teacher: whose tokenizer reads the captions, and whose encoders cached latents must be of.
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
        teacher: Teacher,
        cache: CacheSettings,
        start_method: Literal["fork", "forkserver", "spawn"] | None = None,
        lanes: int = 1,
        remainder: Literal["drop", "wrap"] = "drop",
        max_bad_fraction: float = 0.001,
        accept_changed: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size={batch_size}: expected at least 1")
        if not 0 <= max_bad_fraction <= 1:
            raise InputError(
                f"data.max_bad_fraction={max_bad_fraction}: expected a number from 0 to 1"
            )
        if start_method not in (None, "fork", "forkserver", "spawn"):
            raise InputError(
                f"data.start_method={start_method}: expected fork, forkserver, spawn or null"
            )
        self.store = ShardStore(cache)
        self.batch_size = batch_size
        self.workers = workers
        self.start_method = start_method
        self.max_bad_fraction = max_bad_fraction
        self.accept_changed = accept_changed
        self.index = build_index(shards, store=self.store)
        self.order = Order(
            counts=self.index.counts,
            seed=seed,
            global_batch=global_batch,
            window=window,
            lanes=lanes,
            remainder=remainder,
        )
        self.validation_index = build_index(validation_shards, store=self.store)
        self.validation_samples = min(validation_samples, self.validation_index.samples)
        settings = [
            sample_settings(index.format, teacher, resolution=resolution, flip=mirrored)
            for index, mirrored in [(self.index, flip), (self.validation_index, False)]
        ]
        self._training = ShardDataset(
            ShardReader(self.index, self.store),
            self.order,
            replace(settings[0], caption_dropout=caption_dropout),
            windows_ahead=cache.prefetch,
        )
        order = Order(
            counts=self.validation_index.counts,
            seed=VALIDATION_SEED,
            global_batch=self.validation_samples,
        )
        self._validation = ShardDataset(
            ShardReader(self.validation_index, self.store), order, settings[1]
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must not change when a run resumes."""
        return {
            "order": {
                name: getattr(self.order, name)
                for name in ("seed", "global_batch", "window", "lanes", "remainder")
            },
            "training": self.index.record(),
            "validation": self.validation_index.record(),
        }

    @property
    def global_batch(self) -> int:
        """Samples an optimiser step."""
        return self.order.global_batch

    def accumulation(self, world: int) -> int:
        """Micro-batches an optimiser step.

        Raises:
            InputError: the global batch is no multiple of what all processes take at once.
        """
        return self.order.accumulation(self.batch_size, world)

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
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if self.validation_samples < world:
            raise InputError(
                f"{self.validation_samples} validation samples for {world} processes; expected at"
                " least one each: raise data.validation_samples"
            )
        # As many batches on every process, though they may differ by a sample.
        batches = -(-self.validation_samples // (world * self.batch_size))
        mine = np.array_split(np.arange(rank, self.validation_samples, world), batches)
        return self._loader(self._validation, [positions.tolist() for positions in mine])

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
            multiprocessing_context=self.start_method if self.workers else None,
            collate_fn=whole,
            pin_memory=torch.cuda.is_available(),
        )


def sample_settings(shape: str, teacher: Teacher, *, resolution: int, flip: bool) -> SampleSettings:
    """How the samples of shards of a format are read.

    Raises:
        InputError: they are latents that do not fit.
    """
    kind: Pictures | Latents = Pictures(resolution)
    empty = None
    if shape:
        cached = check_format(shape, teacher, resolution=resolution, flip=flip)
        kind = Latents(text=bool(cached.text_hash))
        if kind.text:
            empty = teacher.encode_text(token_ids([""], teacher.tokenizer))[0]
    return SampleSettings(
        tokenizer=teacher.tokenizer, kind=kind, flip=flip, caption_dropout=0.0, empty_text=empty
    )
