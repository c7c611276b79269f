"""Write WebDataset shards, and read single samples out of them."""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final

from PIL import Image
from webdataset import TarWriter

from bksdm.atomic import replacing
from bksdm.data.contents import Contents
from bksdm.data.decode import BadSampleError
from bksdm.data.filesystems import shown
from bksdm.data.index import ShardIndex
from bksdm.data.location import is_remote
from bksdm.data.pictures import png
from bksdm.data.sidecar import read_contents
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.errors import InputError

OPEN_SHARDS: Final = 64  # a process, at least; with their tables of contents about 100 MB


def write_shard(path: Path, samples: Iterable[tuple[str, Image.Image, str]]) -> None:
    """Write (key, picture, caption) samples as one tar of PNG and txt, under its name only once it
    is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, TarWriter(str(temporary), mtime=0) as tar:
        for key, image, caption in samples:
            tar.write({"__key__": key, "png": png(image), "txt": caption})


@dataclass(frozen=True)
class _Open:
    """A shard that is being read."""

    file: BinaryIO
    contents: Contents


@dataclass
class ShardReader:
    """Reads parts of samples by (shard, row). What is open stays with the process that opened it.

    Attributes:
        index: the shards.
        store: where remote ones are fetched to.
        max_open: shards that stay open; fewer than are read in turn, and each read opens one.
    """

    index: ShardIndex
    store: ShardStore = field(default_factory=lambda: ShardStore(CacheSettings()))
    max_open: int = OPEN_SHARDS
    _open: OrderedDict[int, _Open] = field(default_factory=OrderedDict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": OrderedDict()}

    def read(self, shard: int, row: int, part: str) -> bytearray:
        """The bytes of a part (see `contents.PARTS`) of a sample.

        Raises:
            BadSampleError: the sample has a fault, or no such part.
            InputError: the shard cannot be read; that is no fault of the sample.
        """
        opened = self._opened(shard)
        if row in opened.contents.faults:
            raise BadSampleError(opened.contents.faults[row])
        span = opened.contents.span(row, part)
        if span is None:
            raise BadSampleError(f"no {part}")
        offset, size = span
        data = bytearray(size)
        try:
            found = os.preadv(opened.file.fileno(), [data], offset)
        except OSError:  # a file server has come back: its old handles are stale
            self._close(shard)
            found = os.preadv(self._opened(shard).file.fileno(), [data], offset)
        if found < size:
            raise InputError(
                f"shard {self._location(shard)} was cut off while it was read; make it again, then"
                " run the same command"
            )
        return data

    @cached_property
    def remote(self) -> bool:
        """Whether there is anything to fetch."""
        return any(is_remote(shard.location) for shard in self.index.shards)

    def prefetch(self, shards: Sequence[int]) -> None:
        """Fetch remote shards in the background, in this order."""
        entries = [self.index.shards[shard] for shard in shards]
        self.store.prefetch([(e.location, e.size or None, e.sha256) for e in entries])

    def key(self, shard: int, row: int) -> str:
        """The key of a sample."""
        return self.contents(shard).keys[row]

    def contents(self, shard: int) -> Contents:
        """A shard's table of contents."""
        return self._opened(shard).contents

    def _opened(self, shard: int) -> _Open:
        if shard not in self._open:
            self._open[shard] = self._opening(shard)
            if len(self._open) > self.max_open:
                self._close(next(iter(self._open)))
        self._open.move_to_end(shard)
        return self._open[shard]

    def _opening(self, shard: int) -> _Open:
        entry = self.index.shards[shard]
        try:
            file = self.store.open(entry.location, size=entry.size or None, sha256=entry.sha256)
        except FileNotFoundError:
            raise InputError(
                f"shard {self._location(shard)} has gone; put it back, then run the same command"
            ) from None
        name = self._location(shard)
        contents = read_contents(file, spare=self.store.folder, name=name)
        if len(contents) != entry.count:
            raise InputError(
                f"shard {name} holds {len(contents)} samples, {entry.count} by its"
                " _stats.json; make it again, or leave it out of data.shards"
            )
        return _Open(file, contents)

    def _close(self, shard: int) -> None:
        with suppress(OSError):
            self._open.pop(shard).file.close()

    def _location(self, shard: int) -> str:
        return shown(self.index.shards[shard].location)
