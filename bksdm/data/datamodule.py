"""Shards to batches for the Trainer: any process and any worker reads what the order says, from any
step on.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from filelock import FileLock
from torch.utils.data import DataLoader

from bksdm.batch import TextImageBatch
from bksdm.data.captions import Captions, read_captions
from bksdm.data.exact import ExactTraining, Loading, Share
from bksdm.data.index import ShardIndex, build_index
from bksdm.data.latents import check_format
from bksdm.data.limits import check_cache, check_settings, shards_in_turn
from bksdm.data.location import expand
from bksdm.data.order import Order, accumulation
from bksdm.data.record import format_of
from bksdm.data.samples import (
    Latents,
    Pictures,
    SampleSettings,
    ShardDataset,
    token_ids,
)
from bksdm.data.selection import selection_of
from bksdm.data.shards import ShardReader
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.data.stream import StreamTraining, first_meta
from bksdm.errors import InputError
from bksdm.models.teacher import Teacher

VALIDATION_SEED = 20_230_525  # validation noise is the same in every run, whatever its seed


class ShardDataModule(pl.LightningDataModule):
    """Training and validation shards, of pictures or of latents.

    The whole run is one epoch to Lightning; the epochs of the data are the order's business. The
    only resume state is the trainer's own count of optimiser steps.

    Args:
        shards: locations of the training shards (see `location.expand`).
        validation_shards: of the validation shards.
        selection: file of the training samples to take (see `selection.Selection`); None or "all"
            for all of them.
        resolution: pixels of a side.
        batch_size: samples a process and micro-batch.
        global_batch: samples an optimiser step.
        seed: of the order, and of everything random about a sample.
        flip: mirror half of the pictures.
        caption_dropout: probability of the empty caption.
        mode: "exact" or "stream".
        buffer: samples among which a stream draws the next one, a worker.
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
        selection: str | None = None,
        mode: Literal["exact", "stream"] = "exact",
        buffer: int = 2000,
        start_method: Literal["fork", "forkserver", "spawn"] | None = None,
        lanes: int = 1,
        remainder: Literal["drop", "wrap"] = "drop",
        max_bad_fraction: float = 0.001,
        accept_changed: bool = False,
    ) -> None:
        super().__init__()
        check_settings(
            batch_size=batch_size,
            validation_samples=validation_samples,
            buffer=buffer,
            workers=workers,
            resolution=resolution,
            max_bad_fraction=max_bad_fraction,
            caption_dropout=caption_dropout,
            flip=flip,
            mode=mode,
            start_method=start_method,
        )
        self.global_batch = global_batch
        self.batch_size = batch_size
        self.seed = seed
        self.resolution = resolution
        self.max_bad_fraction = max_bad_fraction
        self.accept_changed = accept_changed
        self._loading = Loading(workers, start_method)
        store = ShardStore(cache)
        read = partial(
            sample_settings,
            teacher=teacher,
            resolution=resolution,
            flip=flip,
            caption_dropout=caption_dropout,
        )
        self._training: ExactTraining | StreamTraining
        selected = selection_of(selection, mode=mode)
        if mode == "stream":
            locations = tuple(expand(shards, allow_pipe=cache.allow_pipe))
            shape = format_of(first_meta(locations[0]))
            settings = read(shape)
            self._training = StreamTraining(
                locations,
                settings,
                seed=seed,
                buffer=buffer,
                global_batch=global_batch,
                format=shape,
            )
        else:
            index = _indexed(shards, store)
            held, rows = (index, None) if selected is None else selected.part_of(index)
            order = Order(
                counts=held.counts if rows is None else list(map(len, rows)),
                seed=seed,
                global_batch=global_batch,
                window=window,
                lanes=lanes,
                remainder=remainder,
            )
            check_cache(held, order, max_gb=cache.max_gb)
            shape = index.format
            settings = read(shape)
            reader = ShardReader(held, store, max_open=shards_in_turn(order))
            ahead = cache.prefetch
            dataset = ShardDataset(reader, order, settings, windows_ahead=ahead, rows=rows)
            chosen = None if selected is None else selected.record
            self._training = ExactTraining(index, order, dataset, chosen)
        self.validation_index = _indexed(validation_shards, store)
        self.validation_samples = min(validation_samples, self.validation_index.samples)
        order = Order(
            counts=self.validation_index.counts,
            seed=VALIDATION_SEED,
            global_batch=self.validation_samples,
        )
        # Latents of one format are compared with the teacher once: hashing its weights takes time.
        other = self.validation_index.format
        known = settings if other == shape else read(other, flip=False)
        plain = replace(known, flip=False, caption_dropout=0.0)
        reader = ShardReader(self.validation_index, store)
        self._validation = ShardDataset(reader, order, plain)

    def setup(self, stage: str) -> None:
        """All processes must have found the same data.

        Raises:
            InputError: they have not; on all of them.
        """
        del stage
        if not (dist.is_available() and dist.is_initialized()):
            return
        mine = json.dumps(self.fingerprint, sort_keys=True)
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, hashlib.sha256(mine.encode()).hexdigest())
        if len(set(found)) > 1:
            raise InputError(
                "the processes found different shards; expected the same everywhere: remove"
                " .bksdm-index.json beside the shards, and see that all nodes have the same copy"
            )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must not change when a run resumes."""
        return {**self._training.fingerprint(), "validation": self.validation_index.record()}

    @property
    def description(self) -> str:
        """What is trained on, in words."""
        return self._training.description

    def accumulation(self, world: int) -> int:
        """Micro-batches an optimiser step.

        Raises:
            InputError: the global batch is no multiple of what all processes take at once.
        """
        return accumulation(self.global_batch, batch=self.batch_size, world=world)

    def captions(self) -> Captions:
        """The captions of all training samples.

        Raises:
            InputError: a stream or a selection, which has not all of them by number.
        """
        training = self._training
        if not isinstance(training, ExactTraining):
            raise InputError("data.mode=stream: captions by number need data.mode=exact")
        if training.selection is not None:
            raise InputError("data.selection: all samples are routed; leave it out")
        return read_captions(training.index, training.dataset.reader)

    def samples_of(self, step: int) -> list[str]:
        """ "shard/key" of the samples of an optimiser step, by global position; a stream knows none
        of them afterwards.
        """
        return self._training.samples_of(step)

    def train_dataloader(self) -> DataLoader[TextImageBatch]:
        """The remaining micro-batches of the run, for this process."""
        assert self.trainer is not None
        share = Share(
            batch=self.batch_size,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            first_step=self.trainer.global_step,
            last_step=self.trainer.max_steps,
        )
        return self.batches(share)

    def batches(self, share: Share) -> DataLoader[TextImageBatch]:
        """The micro-batches of a share of a run."""
        return self._training.loader(share, self._loading)

    def val_dataloader(self) -> DataLoader[TextImageBatch]:
        """The validation samples of this process; their noise is always the same."""
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if self.validation_samples < world:
            raise InputError(
                f"{self.validation_samples} validation samples for {world} processes; expected at"
                " least one each: raise data.validation_samples"
            )
        # As many batches on every process, and none empty; they may differ by a sample.
        wanted = -(-self.validation_samples // (world * self.batch_size))
        batches = min(wanted, self.validation_samples // world)
        mine = np.array_split(np.arange(rank, self.validation_samples, world), batches)
        chunks = [positions.tolist() for positions in mine]
        return self._loading.loader(self._validation, batch_sampler=chunks)

    def some_validation(self, count: int) -> DataLoader[TextImageBatch]:
        """So many of the validation samples at most, always the same ones, all for this process."""
        positions = np.arange(min(count, self.validation_samples))
        batches = np.array_split(positions, -(-len(positions) // self.batch_size))
        chunks = [each.tolist() for each in batches]
        return self._loading.loader(self._validation, batch_sampler=chunks)

    def transfer_batch_to_device(
        self, batch: TextImageBatch, device: torch.device, dataloader_idx: int
    ) -> TextImageBatch:
        """The batch is a frozen value: Lightning's own way would write into it."""
        del dataloader_idx
        return batch.to(device, non_blocking=True)


def _indexed(shards: str | Sequence[str], store: ShardStore) -> ShardIndex:
    """The index: one process of a node builds it, the others wait and read what that has cached."""
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        lock: AbstractContextManager[Any] = FileLock(store.folder / ".index.lock")
    except OSError:
        lock = nullcontext()  # nowhere to cache: each builds its own
    with lock:
        return build_index(shards, store=store)


def sample_settings(
    shape: str, *, teacher: Teacher, resolution: int, flip: bool, caption_dropout: float
) -> SampleSettings:
    """How the samples of shards of a format are read.

    Raises:
        InputError: they are latents that do not fit.
    """
    kind: Pictures | Latents = Pictures(resolution)
    empty = None
    if shape:
        cached = check_format(shape, teacher, resolution=resolution, flip=flip)
        shapes: dict[str, tuple[int, ...]] = {"moments": teacher.moments_shape(resolution)}
        if cached.text_hash:
            empty = teacher.encode_text(token_ids([""], teacher.tokenizer))[0]
            shapes["text"] = tuple(empty.shape)
        kind = Latents(shapes)
    return SampleSettings(
        tokenizer=teacher.tokenizer,
        kind=kind,
        flip=flip,
        caption_dropout=caption_dropout,
        empty_text=empty,
    )
