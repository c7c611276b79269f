"""Room in the shard cache: the least recently used files go first.

Knows how files in the cache's folder are named. Fetches nothing.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from bksdm.data.sidecar import SIDECAR

_PART, _LOCK = ".part", ".lock"
# The store's names: of a hash of 12 digits a shard, of 16 the contents of one that lies elsewhere.
_OURS: Final = re.compile(r"\.?[0-9a-f]{12}([0-9a-f]{4})?-")


def part_path(shard: Path) -> Path:
    """Where a shard lies while it is being fetched."""
    return shard.with_name(f".{shard.name}{_PART}")


def shard_lock(shard: Path) -> FileLock:
    """Held by whoever fetches a shard, whether thread or process."""
    return FileLock(shard.with_name(f".{shard.name}{_LOCK}"))


def make_room(folder: Path, *, limit: int, wanted: int, keep: str) -> None:
    """Remove files until `wanted` more bytes fit under `limit` bytes, or nothing is left to remove.

    Never removes the shard that is named `keep` nor its beginning, nor one being fetched; processes
    that have a removed one open can still read it.
    """
    with FileLock(folder / f".evict{_LOCK}"):
        entries = _entries(folder)
        excess = sum(entry.size for entry in entries) + wanted - limit
        for entry in sorted(entries, key=lambda entry: entry.used_ns):
            if excess <= 0:
                return
            if entry.shard.name != keep and _remove(entry):
                excess -= entry.size


@dataclass
class _Entry:
    """What there is of one shard: the file, its sidecar, or its beginning."""

    shard: Path
    is_part: bool
    paths: list[Path] = field(default_factory=list)
    size: int = 0
    used_ns: int = 0


def _entries(folder: Path) -> list[_Entry]:
    found: dict[tuple[str, bool], _Entry] = {}
    for path in folder.iterdir():
        name, is_part = path.name, path.name.startswith(".")
        if not _OURS.match(name) or not path.is_file() or (is_part and not name.endswith(_PART)):
            continue  # a lock, or not ours: the folder may be somebody's scratch disk
        name = name[1:].removesuffix(_PART) if is_part else name.removesuffix(SIDECAR)
        with suppress(FileNotFoundError):  # another process was faster
            stat = path.stat()
            entry = found.setdefault((name, is_part), _Entry(folder / name, is_part))
            entry.paths.append(path)
            entry.size += stat.st_size
            # Access time marks the use (the store sets it); modification time says which bytes.
            entry.used_ns = max(entry.used_ns, stat.st_mtime_ns if is_part else stat.st_atime_ns)
    return list(found.values())


def _remove(entry: _Entry) -> bool:
    if entry.is_part:
        try:
            with shard_lock(entry.shard).acquire(blocking=False):
                return _unlink(entry)
        except Timeout:
            return False  # someone is fetching it
    return _unlink(entry)


def _unlink(entry: _Entry) -> bool:
    for path in entry.paths:
        path.unlink(missing_ok=True)
    return True
