"""Rows of shards, cached: beside the shards, or in the shard cache where that cannot be written."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

from bksdm.atomic import replacing
from bksdm.data.location import base_name, is_remote, local_path, sibling
from bksdm.data.remote import read_small, size_of
from bksdm.data.store import ShardStore

TABLE_NAME: Final = ".bksdm-index.json"
_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar.

    Attributes:
        location: path or URL.
        size: bytes; 0 if a server does not say.
        modified_ns: when it was written; 0 for remote shards.
        count: samples, good and bad.
        digest: of its table of contents, or of the record beside it.
        format: what a latent shard says of itself, as JSON; empty for pictures.
        sha256: of the whole file, if the record has it.
    """

    location: str
    size: int
    modified_ns: int
    count: int
    digest: str
    format: str = ""
    sha256: str = ""

    @property
    def name(self) -> str:
        """File name."""
        return base_name(self.location)


def folder_of(location: str) -> str:
    """What the shards of one table have in common."""
    return "pipe:" if location.startswith("pipe:") else sibling(location, "")


class Table:
    """The cached rows of a location's folder: beside the shards, or in the cache where that is not
    possible.
    """

    def __init__(self, location: str, store: ShardStore) -> None:
        digest = hashlib.sha256(folder_of(location).encode()).hexdigest()[:16]
        spare = store.folder / f"index-{digest}.json"
        self.remote = is_remote(location)
        self.places = [spare] if self.remote else [local_path(sibling(location, TABLE_NAME)), spare]
        pipe = location.startswith("pipe:")
        published = read_small(sibling(location, TABLE_NAME)) if self.remote and not pipe else None
        self.published = _rows(published)
        self.cached = [_rows(path.read_bytes()) for path in self.places if path.is_file()]

    def fresh(self, location: str) -> Shard | None:
        """The row of a shard if it is still true; what a server publishes is taken as true."""
        key = _key(location)
        published = self.published.get(key)
        if published:
            return Shard(location, *published[1:])
        rows = [table[key] for table in self.cached if key in table]
        if not rows or location.startswith("pipe:"):
            return Shard(location, *rows[0][1:]) if rows else None
        if self.remote:
            found: tuple[int | None, int] = size_of(location), 0
        else:
            stat = os.stat(location)
            found = stat.st_size, stat.st_mtime_ns
        return next((Shard(location, *row[1:]) for row in rows if row[1:3] == found), None)

    def stale(self, location: str) -> Shard | None:
        """The row that a shard had when it was last looked at."""
        rows = [table[_key(location)] for table in self.cached if _key(location) in table]
        return Shard(location, *rows[0][1:]) if rows else None

    def write(self, rows: Iterable[Shard]) -> None:
        """Add rows."""
        kept = {key: row for table in reversed(self.cached) for key, row in table.items()}
        kept |= {_key(row.location): (_key(row.location), *astuple(row)[1:]) for row in rows}
        formats = list(dict.fromkeys(row[5] for row in kept.values()))
        packed = [[*row[:5], formats.index(row[5]), row[6]] for row in kept.values()]
        text = json.dumps({"version": _VERSION, "formats": formats, "shards": packed})
        any(_written(path, text) for path in self.places)


def _key(location: str) -> str:
    return location if location.startswith("pipe:") else base_name(location)


def _rows(content: bytes | None) -> dict[str, tuple[Any, ...]]:
    try:
        table = json.loads(content or b"")
        if table["version"] != _VERSION:
            return {}
        formats = table["formats"]
        return {row[0]: (*row[:5], formats[row[5]], row[6]) for row in table["shards"]}
    except (ValueError, KeyError, TypeError, IndexError):
        return {}  # absent or broken: the rows are made again


def _written(path: Path, text: str) -> bool:
    """True if it could be written: in a read-only folder the rows are made again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text)
    except OSError:
        return False
    return True
