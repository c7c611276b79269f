"""Shards of pictures to shards of latents: what the VAE (and, if asked, the text encoder) would
compute anew in every step of a training, computed once.

A process takes every n-th shard, whole. A latent shard gets its name when it is complete, so that a
killed run that is started again, on any number of processes, repeats one shard a process at most.
"""

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from webdataset import TarWriter

from bksdm.data.contents import META
from bksdm.data.decode import BadSampleError, decode_caption, decode_picture
from bksdm.data.index import ShardIndex
from bksdm.data.latents import LatentFormat
from bksdm.data.record import Record, Rejected, finish, unfinished
from bksdm.data.samples import token_ids, whole
from bksdm.data.shards import ShardReader
from bksdm.data.store import ShardStore
from bksdm.data.todo import source_hash
from bksdm.data.transforms import byte_tensor, cropped, scaled
from bksdm.errors import told_plainly
from bksdm.models.teacher import Teacher

log = logging.getLogger(__name__)
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Decoded:
    """Samples of one shard, ready for the encoders.

    Attributes:
        shard: number of the source shard.
        pixels: (B, 3, H, W), uint8.
        captions: of each sample.
        keys: of each sample.
        rejected: the samples that are missing here.
    """

    shard: int
    pixels: Tensor
    captions: list[str]
    keys: list[str]
    rejected: list[Rejected]

    def pin_memory(self) -> "Decoded":
        """Called by the DataLoader before a copy to the GPU."""
        return replace(self, pixels=self.pixels.pin_memory())


@dataclass(frozen=True)
class Encoded:
    """The same, encoded.

    Attributes:
        source: what they were made from.
        parts: name in the shard -> (B, ...), float16 on the CPU.
        arrived: to be waited for before the parts are read; None if they are there.
    """

    source: Decoded
    parts: dict[str, Tensor]
    arrived: torch.cuda.Event | None = None


class PictureBatches(Dataset[Decoded]):
    """Batches of (shard, row) to decoded samples; bad ones are left out and counted."""

    def __init__(self, reader: ShardReader, shards: Sequence[int], *, resolution: int) -> None:
        self.reader = reader
        self.shards = shards
        self.resolution = resolution

    def __getitems__(self, rows: Sequence[tuple[int, int]]) -> Decoded:
        """The samples of one shard at these rows."""
        with told_plainly():
            return self._batch(rows)

    def _batch(self, rows: Sequence[tuple[int, int]]) -> Decoded:
        if self.reader.remote and rows[0][1] == 0:
            at = self.shards.index(rows[0][0])
            self.reader.prefetch(self.shards[at : at + 2])
        pixels, captions, keys, rejected = [], [], [], []
        for shard, row in rows:
            try:
                image = decode_picture(self.reader.read(shard, row, "image"))
                captions.append(decode_caption(self.reader.read(shard, row, "caption")))
            except BadSampleError as error:
                bad = Rejected(self.reader.key(shard, row), error.reason, error.detail)
                rejected.append(bad)
                continue
            pixels.append(byte_tensor(cropped(image, resolution=self.resolution)))
            keys.append(self.reader.key(shard, row))
        stacked = torch.stack(pixels) if pixels else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
        return Decoded(rows[0][0], stacked, captions, keys, rejected)


def encode(
    index: ShardIndex,
    teacher: Teacher,
    shape: LatentFormat,
    todo: Sequence[tuple[int, Path]],
    *,
    store: ShardStore,
    batch_size: int,
    workers: int,
    device: torch.device,
    on_images: Callable[[int], None],
) -> Counter[str]:
    """Encode shards, one after the other.

    Args:
        index: the source shards.
        teacher: in the precision to compute in, on `device`.
        shape: what the latents will be.
        todo: from `shards_to_do`.
        store: of remote source shards.
        batch_size: pictures at once.
        workers: loader processes.
        device: of the encoders.
        on_images: called with the number of pictures after each batch.

    Returns:
        reason -> samples that were left out.
    """
    numbers = [number for number, _ in todo]
    loader = DataLoader(
        PictureBatches(ShardReader(index, store), numbers, resolution=shape.resolution),
        batch_sampler=_Batches(index.counts, numbers, batch_size),
        num_workers=workers,
        collate_fn=whole,
        pin_memory=device.type == "cuda",
    )
    batches = _one_behind(_encoded(batch, teacher, shape, device) for batch in loader)
    by_shard = groupby(batches, key=lambda batch: batch.source.shard)
    left_out: Counter[str] = Counter()
    for number, path in todo:
        # A shard without samples has no batches.
        group = next(by_shard)[1] if index.counts[number] else iter(())
        meta = {**asdict(shape), "source": source_hash(index.shards[number])}
        rejected = _write_shard(path, group, meta, on_images=on_images)
        left_out.update(bad.reason for bad in rejected)
    return left_out


def _write_shard(
    path: Path,
    batches: Iterator[Encoded],
    meta: dict[str, Any],
    *,
    on_images: Callable[[int], None],
) -> tuple[Rejected, ...]:
    rejected: list[Rejected] = []
    count = 0
    with unfinished(path) as temporary:
        with TarWriter(str(temporary), mtime=0) as tar:
            tar.write({"__key__": META.removesuffix(".json"), "json": json.dumps(meta)})
            for batch in batches:
                overflown = _write(tar, batch)
                count += len(batch.source.keys) - len(overflown)
                rejected += [*batch.source.rejected, *overflown]
                on_images(len(batch.source.keys) + len(batch.source.rejected))
        finish(temporary, path, Record(count, tuple(rejected), latents=meta))
    return tuple(rejected)


class _Batches:
    """(shard, row) of each batch; no batch crosses from one shard to the next."""

    def __init__(self, counts: Sequence[int], shards: Sequence[int], size: int) -> None:
        self.counts, self.shards, self.size = counts, shards, size

    def __len__(self) -> int:
        return sum(-(-self.counts[shard] // self.size) for shard in self.shards)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for shard in self.shards:
            for start in range(0, self.counts[shard], self.size):
                stop = min(start + self.size, self.counts[shard])
                yield [(shard, row) for row in range(start, stop)]


def _encoded(
    batch: Decoded, teacher: Teacher, shape: LatentFormat, device: torch.device
) -> Encoded:
    if not batch.keys:
        return Encoded(batch, {})
    pixels = scaled(batch.pixels.to(device, non_blocking=True))
    parts = {"moments": teacher.encode_moments(pixels)}
    if shape.flips:
        parts["flipped"] = teacher.encode_moments(pixels.flip(-1))
    if shape.text_hash:
        tokens = token_ids(batch.captions, teacher.tokenizer).to(device, non_blocking=True)
        parts["text"] = teacher.encode_text(tokens)
    halves = {name: _on_its_way(part.half()) for name, part in parts.items()}
    return Encoded(
        batch, halves, torch.cuda.current_stream().record_event() if device.type == "cuda" else None
    )


def _on_its_way(part: Tensor) -> Tensor:
    """A copy on the CPU that need not have arrived."""
    if part.device.type == "cpu":
        return part
    return torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part, non_blocking=True)


def _one_behind(batches: Iterator[Encoded]) -> Iterator[Encoded]:
    """Each batch when the next one has been started: a GPU computes while the last is written."""
    previous = None
    for batch in batches:
        if previous is not None:
            yield previous
        previous = batch
    if previous is not None:
        yield previous


def _write(tar: TarWriter, batch: Encoded) -> list[Rejected]:
    """Write the samples of a batch; returns those that float16 cannot hold."""
    if batch.arrived is not None:
        batch.arrived.synchronize()
    parts = {name: part.numpy() for name, part in batch.parts.items()}
    overflown = []
    for row, (key, caption) in enumerate(
        zip(batch.source.keys, batch.source.captions, strict=True)
    ):
        if not all(np.isfinite(values[row]).all() for values in parts.values()):
            overflown.append(Rejected(key, "latents overflow float16"))
            continue
        arrays = {f"{name}.npy": _npy(values[row]) for name, values in parts.items()}
        tar.write({"__key__": key, "txt": caption.encode(), **arrays})
    return overflown


def _npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
