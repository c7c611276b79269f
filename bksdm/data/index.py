"""Which shards a data set has, and how many samples each: small, whatever the shards hold.

A row costs a look at the record that img2dataset and our own writers leave beside a shard
(`NAME_stats.json`), else one scan of the tar. Rows are cached beside the shards and made again when
a shard's size or time has changed. The hash of all rows goes into checkpoints.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from bksdm.data.filesystems import shown
from bksdm.data.location import base_name, expand, is_remote, sibling
from bksdm.data.record import Record, format_of, parse_record, record_name
from bksdm.data.remote import read_small, size_of
from bksdm.data.sidecar import last_known_digest, read_contents
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.data.table import Shard, Table, folder_of
from bksdm.errors import InputError

_FILES_AT_ONCE: Final = 8  # a network file system answers slowly; more threads slow a fast disk
_REQUESTS_AT_ONCE: Final = 32  # a server answers slowly, but many at a time

T = TypeVar("T")


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
        depth = 1  # of several folders as much as tells the shards apart
        deepest = max((shard.location.count("/") for shard in self.shards), default=0) + 1
        while True:
            names = ["/".join(shard.location.split("/")[-depth:]) for shard in self.shards]
            if len(set(names)) == len(names) or depth > deepest:
                break
            depth += 1
        return {
            "hash": self.fingerprint,
            "shards": {
                name: f"{shard.size} {shard.count} {shard.digest}"
                for name, shard in zip(names, self.shards, strict=True)
            },
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
    folders = list(map(folder_of, locations))
    firsts = dict(zip(folders, locations, strict=True))
    tables = {folder: Table(at, store) for folder, at in firsts.items()}
    placed = dict(zip(locations, (tables[folder] for folder in folders), strict=True))
    at_once = _REQUESTS_AT_ONCE if any(map(is_remote, firsts.values())) else _FILES_AT_ONCE
    with ThreadPoolExecutor(at_once) as pool:
        known = _mapped(pool, lambda at: placed[at].fresh(at), locations)
        missing = [at for at, row in zip(locations, known, strict=True) if row is None]
        records = dict(zip(missing, _mapped(pool, record_of, missing), strict=True))
        _refuse_unfinished(records, locations)
        rows_made = _mapped(
            pool, lambda at: _row(at, records[at], store, placed[at].stale(at)), missing
        )
        made = dict(zip(missing, rows_made, strict=True))
    rows = tuple(row or made[at] for at, row in zip(locations, known, strict=True))
    for table in {id(placed[at]): placed[at] for at in missing}.values():
        table.write(made[at] for at in missing if placed[at] is table)
    return ShardIndex(rows)


def _mapped(pool: Executor, function: Callable[[str], T], items: Sequence[str]) -> list[T]:
    """`map` in as few pieces as keep all threads busy: a future for every shard takes longer than
    looking at the shard.
    """
    size = -(-len(items) // (4 * _REQUESTS_AT_ONCE)) or 1
    pieces = [items[start : start + size] for start in range(0, len(items), size)]
    return [
        result
        for results in pool.map(lambda piece: [function(item) for item in piece], pieces)
        for result in results
    ]


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
    neighbours = (at for at in locations if folder_of(at) == folder_of(without) and at != without)
    if any(records[at] if at in records else record_of(at) for at in neighbours):
        if is_remote(without):
            size_of(without)  # or there is no shard either, which it says
        raise InputError(
            f"shard {shown(without)} has no _stats.json beside it though its neighbours do: its"
            " download or encoding was not finished; run that again, or leave the shard out of"
            " data.shards"
        )


def _row(location: str, record: bytes | None, store: ShardStore, old: Shard | None) -> Shard:
    """The row of a shard.

    Args:
        location: of the shard.
        record: what its maker left beside it.
        store: fetches it if it has to be scanned.
        old: its row when it had another size or time, if that is known.
    """
    if is_remote(location):
        size, modified = (0 if location.startswith("pipe:") else size_of(location) or 0), 0
    else:
        stat = os.stat(location)
        size, modified = stat.st_size, stat.st_mtime_ns
    if record is None:
        with store.open(location, size=size or None) as file:
            contents = read_contents(file, spare=store.folder, name=shown(location))
        told, digest = Record(len(contents), latents=contents.meta), contents.digest
    else:
        told = parse_record(record, shard=base_name(location))
        digest = hashlib.sha256(record).hexdigest()[:16]
        if old is not None and not is_remote(location):
            digest = _digest_of_touched(location, digest, old, store)
    shape = format_of(told.latents)
    return Shard(location, size, modified, told.count, digest, shape, told.sha256)


def _digest_of_touched(location: str, digest: str, old: Shard, store: ShardStore) -> str:
    """The digest of a shard that was written again while its record may have stayed: the old one if
    it holds what it held when it was last read.
    """
    with store.open(location) as file:
        before = last_known_digest(file, spare=store.folder)
        now = read_contents(file, spare=store.folder, name=shown(location)).digest
    if before == now:
        return old.digest
    return digest if before is None else hashlib.sha256(f"{digest} {now}".encode()).hexdigest()[:16]
