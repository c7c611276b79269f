"""Which shards a data set has, and how many samples each: small, whatever the shards hold.

A row costs a look at the record that img2dataset and our own writers leave beside a shard
(`NAME_stats.json`), else one scan of the tar. Rows are cached beside the shards and made again when
a shard's size or time has changed. The hash of all rows goes into checkpoints.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from bksdm.data.contents import read_contents
from bksdm.data.filesystems import shown
from bksdm.data.location import base_name, expand, is_remote, local_path, sibling
from bksdm.data.record import Record, format_of, parse_record, record_name
from bksdm.data.remote import read_small, size_of
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.errors import InputError

TABLE_NAME: Final = ".bksdm-index.json"
_VERSION: Final = 2
_LOOKS_AT_ONCE: Final = 32  # network file systems and servers answer slowly, but in parallel

T = TypeVar("T")


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


@dataclass(frozen=True)
class ShardIndex:
    """The shards of a data set, in the order in which they were named."""

    shards: tuple[Shard, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Samples of each shard."""
        return tuple(shard.count for shard in self.shards)

    @property
    def samples(self) -> int:
        """Samples of the data set."""
        return sum(self.counts)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a shard is added, removed, reordered or holds something else; not when it
        moves.
        """
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.name} {shard.size} {shard.count} {shard.digest}\n".encode())
        return digest.hexdigest()[:16]

    @property
    def format(self) -> str:
        """What the shards say of themselves, as JSON; empty for pictures.

        Raises:
            InputError: they differ.
        """
        kinds = {shard.format: shard for shard in self.shards}
        if len(kinds) > 1:
            first, second, *_ = kinds.values()
            raise InputError(
                f"shards {shown(first.location)} and {shown(second.location)} are of different"
                f" kinds ({first.format or 'pictures'}, {second.format or 'pictures'}); expected"
                " one kind"
            )
        return next(iter(kinds), "")

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps, to tell later what has changed."""
        names = [shard.name for shard in self.shards]
        if len(set(names)) < len(names):  # several folders
            names = ["/".join(shard.location.split("/")[-2:]) for shard in self.shards]
        rows = zip(names, self.shards, strict=True)
        return {
            "hash": self.fingerprint,
            "shards": {name: f"{shard.digest} {shard.count}" for name, shard in rows},
        }


def changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs between two records of a data set, in words; empty if nothing does."""
    if old["hash"] == new["hash"]:
        return ""
    was, now = old["shards"], new["shards"]
    groups = {
        "missing": [name for name in was if name not in now],
        "new": [name for name in now if name not in was],
        "changed": [name for name in was if name in now and was[name] != now[name]],
    }
    words = [
        f"{len(names)} shard{'s' * (len(names) > 1)} {kind} ({', '.join(names[:3])}"
        f"{', ...' * (len(names) > 3)})"
        for kind, names in groups.items()
        if names
    ]
    return ", ".join(words) or "the same shards in another order"


def build_index(pattern: str | Sequence[str], *, store: ShardStore | None = None) -> ShardIndex:
    """Index the shards of a pattern (see `location.expand`).

    Args:
        pattern: locations with globs or braces, or several.
        store: fetches remote shards that have to be scanned.

    Raises:
        InputError: a shard is missing, unfinished or no tar.
    """
    store = store or ShardStore(CacheSettings())
    locations = expand(pattern, allow_pipe=store.settings.allow_pipe)
    folders = {_folder(location): location for location in locations}
    tables = {folder: _Table(location, store) for folder, location in folders.items()}
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        known = _mapped(pool, lambda at: tables[_folder(at)].fresh(at), locations)
        missing = [at for at, row in zip(locations, known, strict=True) if row is None]
        records = dict(zip(missing, _mapped(pool, record_of, missing), strict=True))
        _refuse_unfinished(records, locations)
        rows_made = _mapped(pool, lambda at: _row(at, records[at], store), missing)
        made = dict(zip(missing, rows_made, strict=True))
    rows = tuple(row or made[at] for at, row in zip(locations, known, strict=True))
    for folder in {_folder(at) for at in missing}:
        tables[folder].write(made[at] for at in missing if _folder(at) == folder)
    return ShardIndex(rows)


def _mapped(pool: Executor, function: Callable[[str], T], items: Sequence[str]) -> list[T]:
    """`map` in as few pieces as keep all threads busy: a future for every shard takes longer than
    looking at the shard.
    """
    size = -(-len(items) // (4 * _LOOKS_AT_ONCE)) or 1
    pieces = [items[start : start + size] for start in range(0, len(items), size)]
    return [
        result
        for results in pool.map(lambda piece: [function(item) for item in piece], pieces)
        for result in results
    ]


def _folder(location: str) -> str:
    return "pipe:" if location.startswith("pipe:") else sibling(location, "")


def record_of(location: str) -> bytes | None:
    """What the maker of a shard wrote down beside it when it was finished."""
    if location.startswith("pipe:"):
        return None
    record = sibling(location, record_name(base_name(location)))
    if is_remote(location):
        return read_small(record)
    path = Path(record)
    return path.read_bytes() if path.is_file() else None


def _refuse_unfinished(records: dict[str, bytes | None], locations: Sequence[str]) -> None:
    """A shard without a record among shards that have one was left unfinished."""
    without = next((at for at, record in records.items() if record is None), None)
    if without is None or without.startswith("pipe:"):
        return
    neighbours = (at for at in locations if _folder(at) == _folder(without) and at != without)
    if any(records[at] if at in records else record_of(at) for at in neighbours):
        raise InputError(
            f"shard {shown(without)} has no _stats.json beside it though its neighbours do: its"
            " download or encoding was not finished; run that again, or leave the shard out of"
            " data.shards"
        )


def _row(location: str, record: bytes | None, store: ShardStore) -> Shard:
    if is_remote(location):
        size, modified = (0 if location.startswith("pipe:") else size_of(location) or 0), 0
    else:
        stat = os.stat(location)
        size, modified = stat.st_size, stat.st_mtime_ns
    if record is None:
        with store.open(location, size=size or None) as file:
            contents = read_contents(file, spare=store.folder)
        told, digest = Record(len(contents), latents=contents.meta), contents.digest
    else:
        told = parse_record(record, shard=base_name(location))
        digest = hashlib.sha256(record).hexdigest()[:16]
    shape = format_of(told.latents)
    return Shard(location, size, modified, told.count, digest, shape, told.sha256)


class _Table:
    """The cached rows of a location's folder: beside the shards, or in the cache where that is not
    possible.
    """

    def __init__(self, location: str, store: ShardStore) -> None:
        digest = hashlib.sha256(_folder(location).encode()).hexdigest()[:16]
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
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        # A read-only data folder is fine; the rows are made again next time.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True
