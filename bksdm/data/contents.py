"""The table of contents of one tar: which samples it holds and where their bytes are, so that a
sample is one `pread` a part.

Read from the tar's headers once, then from a small file beside it (`NAME.toc.npz`). Members are
never unpacked, and only the parts that a sample needs are ever read: pictures, captions, arrays of
our own.
"""

import errno
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from bksdm.errors import InputError

# What a sample may have; the first suffix that is there counts.
PARTS: Final = {
    "image": ("png", "jpg", "jpeg", "webp"),
    "caption": ("txt",),
    "moments": ("moments.npy",),
    "flipped": ("flipped.npy",),
    "text": ("text.npy",),
}
META: Final = "__bksdm__/latents.json"  # WebDataset readers skip members of this form
_PLACES: Final = {part: place for place, part in enumerate(PARTS)}
_COLUMN: Final = {
    suffix: (column, rank)
    for column, suffixes in enumerate(PARTS.values())
    for rank, suffix in enumerate(suffixes)
}
_IS_META: Final = re.compile(r"__[^/]*__($|/)")  # WebDataset's own convention
_BROKEN: Final = (  # what tarfile and json raise over hostile bytes
    tarfile.TarError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True, eq=False)
class Contents:
    """What a tar holds.

    Attributes:
        keys: of each sample, in the tar's order.
        spans: (samples, parts, 2), offset and size in bytes of each part of `PARTS`; size -1 where
            there is none.
        faults: row -> what is wrong with a sample, as far as the table of contents tells.
        meta: what our latent shards say of themselves; empty for pictures.
    """

    keys: tuple[str, ...]
    spans: npt.NDArray[np.int64]
    faults: dict[int, str]
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def digest(self) -> str:
        """Changes when a member is renamed, moved or resized, and not when the shard moves."""
        digest = hashlib.sha256(self.spans.tobytes())
        digest.update(json.dumps([self.keys, self.meta], sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def span(self, row: int, part: str) -> tuple[int, int] | None:
        """Offset and size of a sample's part, or None."""
        offset, size = self.spans[row, _PLACES[part]].tolist()
        return None if size < 0 else (offset, size)


def scan(file: BinaryIO, *, name: str = "") -> Contents:
    """Read a tar's headers.

    Args:
        file: the tar.
        name: of the shard in messages, if it is not the file's.

    Raises:
        InputError: not a tar, or cut off.
    """
    builder = _Builder()
    name = name or file.name
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.name == META:
                    meta = tar.extractfile(member)
                    builder.meta = plain_meta(meta.read()) if meta else {}
                elif is_data(member):
                    builder.add(member)
            # tarfile takes a tar that was cut off between two members for a whole one.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a size that is no size
            raise
        raise InputError(
            f"shard {name} cannot be read as a tar ({error}); make it again"
        ) from error
    except _BROKEN as error:
        raise InputError(
            f"shard {name} cannot be read as a tar ({error}); make it again, or leave it out"
            " of data.shards"
        ) from error
    contents = builder.finish()
    size = os.fstat(file.fileno()).st_size
    if len(contents) and int(contents.spans.sum(axis=2).max()) > size:
        raise InputError(f"shard {name} is cut off; make it again, or leave it out of data.shards")
    return contents


def is_data(member: tarfile.TarInfo) -> bool:
    """Whether a member may belong to a sample: no link, folder or WebDataset's own notes."""
    return member.isreg() and not member.issparse() and not _IS_META.match(member.name)


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix (lower case) of a member: before and after the first dot of its file name."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def is_unsafe(key: str) -> bool:
    """Whether a key, taken as a path, leads out of its folder."""
    return ".." in key.split("/") or key.startswith("/")


def plain_meta(data: bytes) -> dict[str, Any]:
    """What a latent shard says of itself.

    Raises:
        ValueError: no settings.
    """
    meta = json.loads(data)
    if not isinstance(meta, dict):
        raise ValueError(f"{META} holds no settings")
    return meta


class _Builder:
    """Groups members into samples by the name before the first dot, as WebDataset does."""

    def __init__(self) -> None:
        self.meta: dict[str, Any] = {}
        self.keys: list[str] = []
        self.rows: list[list[tuple[int, int]]] = []
        self.ranks: list[list[int]] = []
        self.repeated: set[int] = set()
        self.current: dict[str, int] = {}

    def add(self, member: tarfile.TarInfo) -> None:
        key, suffix = split_name(member.name)
        column, rank = _COLUMN.get(suffix, (-1, 0))
        row = self.current.get(key, -1)
        again = row >= 0 and column >= 0 and self.ranks[row][column] == rank
        if row < 0 or again:
            row = len(self.keys)
            if again:
                self.repeated.add(row)
            self.current[key] = row
            self.keys.append(key)
            self.rows.append([(0, -1)] * len(PARTS))
            self.ranks.append([len(_COLUMN)] * len(PARTS))
        if column >= 0 and rank < self.ranks[row][column]:
            self.rows[row][column] = (member.offset_data, member.size)
            self.ranks[row][column] = rank

    def finish(self) -> Contents:
        shape = (len(self.rows), len(PARTS), 2)
        spans = np.array(self.rows, dtype=np.int64).reshape(shape)
        picture = "moments" if self.meta else "image"
        faults = dict(self._faults(spans, _PLACES[picture]))
        return Contents(tuple(self.keys), spans, faults, self.meta)

    def _faults(self, spans: npt.NDArray[np.int64], picture: int) -> Iterator[tuple[int, str]]:
        caption = _PLACES["caption"]
        for row, key in enumerate(self.keys):
            if is_unsafe(key):
                yield row, "unsafe name"
            elif row in self.repeated:
                yield row, "duplicate key"
            elif spans[row, picture, 1] < 0:
                yield row, "no picture"
            elif spans[row, picture, 1] == 0:
                yield row, "empty picture"
            elif spans[row, caption, 1] < 0:
                yield row, "no caption"
