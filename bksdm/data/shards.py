"""Write WebDataset shards, and read single samples out of them."""

import io
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from webdataset import TarWriter

from bksdm.batch import TextImageBatch
from bksdm.data.index import ShardIndex
from bksdm.data.order import Order
from bksdm.data.transforms import chance, pixel_tensor
from bksdm.errors import InputError

log = logging.getLogger(__name__)
MAX_OPEN_SHARDS = 64  # a process


def write_shard(path: Path, samples: Iterable[tuple[str, Image.Image, str]]) -> None:
    """Write (key, picture, caption) samples as one tar of PNG and txt, under its name only once it
    is complete.
    """
    temporary = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(temporary), mtime=0) as tar:
        for key, image, caption in samples:
            tar.write({"__key__": key, "png": _png(image), "txt": caption})
    temporary.replace(path)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


class BadSampleError(ValueError):
    """A sample whose picture or caption cannot be decoded."""


@dataclass
class ShardReader:
    """Reads samples by (shard, row). Open files stay with the process that opened them."""

    index: ShardIndex
    _files: OrderedDict[tuple[int, int], int] = field(default_factory=OrderedDict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "_files": OrderedDict()}

    def read(self, shard: int, row: int) -> tuple[Image.Image, str]:
        """Decoded RGB picture and caption.

        Raises:
            BadSampleError: the sample cannot be decoded.
            OSError: the shard cannot be read; that is no fault of the sample.
        """
        entry = self.index.shards[shard]
        picture = self._bytes(shard, entry.images[row])
        caption = self._bytes(shard, entry.captions[row])
        try:
            return Image.open(io.BytesIO(picture)).convert("RGB"), caption.decode().strip()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadSampleError(str(error)) from error

    def _bytes(self, shard: int, span: tuple[int, int]) -> bytes:
        offset, size = span
        return os.pread(self._file(shard), size, offset)

    def _file(self, shard: int) -> int:
        slot = (os.getpid(), shard)
        if slot not in self._files:
            path = self.index.path(shard)
            try:
                self._files[slot] = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise InputError(
                    f"shard {path} has gone; put it back, then run the same command"
                ) from None
            if len(self._files) > MAX_OPEN_SHARDS:
                (process, _), file = self._files.popitem(last=False)
                if process == os.getpid():
                    os.close(file)
        self._files.move_to_end(slot)
        return self._files[slot]


class ShardDataset(Dataset[TextImageBatch]):
    """Samples by global position: which one is next comes from the order, everything random from
    (seed, position).
    """

    def __init__(
        self,
        index: ShardIndex,
        order: Order,
        *,
        tokenizer: Any,
        resolution: int,
        flip: bool,
        caption_dropout: float,
    ) -> None:
        self.reader = ShardReader(index)
        self.order = order
        self.tokenizer = tokenizer
        self.resolution = resolution
        self.flip = flip
        self.caption_dropout = caption_dropout

    def __getitem__(self, position: int) -> TextImageBatch:
        """The sample at a global position, as a batch of one."""
        seed = self.order.sample_seed(position)
        rng = np.random.default_rng(seed)
        flip, drop = chance(rng, 0.5) and self.flip, chance(rng, self.caption_dropout)
        image, caption = self._good_sample(*self.order.sample(position))
        tokens = self.tokenizer(
            "" if drop else caption,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        pixels = pixel_tensor(image, resolution=self.resolution, flip=flip)
        return TextImageBatch(pixels[None], tokens, torch.tensor([seed]))

    def _good_sample(self, shard: int, row: int) -> tuple[Image.Image, str]:
        """The sample, or the next good one of its shard: the count of samples never changes, and
        neither does the choice.
        """
        rows = len(self.reader.index.shards[shard].keys)
        for attempt in range(rows):
            key = self.reader.index.shards[shard].keys[(row + attempt) % rows]
            try:
                return self.reader.read(shard, (row + attempt) % rows)
            except BadSampleError as error:
                log.warning(
                    "sample %s of %s is bad (%s); the next one stands in",
                    key,
                    self.reader.index.path(shard),
                    error,
                )
        raise InputError(
            f"shard {self.reader.index.path(shard)} holds no readable sample; remove it or make it"
            " again"
        )


def collate(samples: Sequence[TextImageBatch]) -> TextImageBatch:
    """Batches of one to one batch."""
    parts = [
        [getattr(sample, name) for sample in samples] for name in ("pixels", "tokens", "seeds")
    ]
    return TextImageBatch(*(torch.cat(part) for part in parts))
