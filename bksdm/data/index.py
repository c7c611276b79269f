"""What the shards hold: samples of each WebDataset tar and where their bytes are, so that a sample
is one read.

The index is cached beside the shards and rebuilt when a shard's size or time has changed. Its hash
goes into checkpoints.
"""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import Final

import braceexpand

from bksdm.errors import InputError

IMAGE_SUFFIXES: Final = ("png", "jpg", "jpeg", "webp")
CACHE_NAME: Final = ".bksdm-index.json"

Span = tuple[int, int]  # offset and size in bytes


@dataclass(frozen=True)
class Shard:
    """One tar: for each complete sample its key, and the spans of picture and caption.

    Attributes:
        incomplete: samples without a picture or without a caption, which are left out.
    """

    name: str
    size: int
    modified_ns: int
    keys: tuple[str, ...]
    images: tuple[Span, ...]
    captions: tuple[Span, ...]
    incomplete: int


@dataclass(frozen=True)
class ShardIndex:
    """The shards of a data set, in the order in which they were named."""

    folder: Path
    shards: tuple[Shard, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Complete samples of each shard."""
        return tuple(len(shard.keys) for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Changes when a shard is added, removed, reordered or holds other bytes at other places;
        not when it moves.
        """
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(
                repr((shard.name, shard.size, shard.keys, shard.images, shard.captions)).encode()
            )
        return digest.hexdigest()[:16]

    def path(self, shard: int) -> Path:
        """Where a shard lies."""
        return self.folder / self.shards[shard].name


def shard_paths(pattern: str | Sequence[str]) -> list[Path]:
    """Paths that a pattern (glob or braces), or several, stand for.

    Raises:
        InputError: a pattern matches nothing, or a named shard is missing.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    paths: list[Path] = []
    for item in patterns:
        expanded = (
            list(braceexpand.braceexpand(item))
            if "{" in item
            else sorted(glob(item))
            if "*" in item
            else [item]
        )
        missing = [path for path in expanded if not Path(path).is_file()]
        if missing or not expanded:
            raise InputError(
                f"no shard at {missing[0] if missing else item}; make the embedded world's with"
                " `bksdm prepare`, or name yours with data.shards='folder/*.tar'"
            )
        paths += map(Path, expanded)
    if len({path.parent for path in paths}) > 1:
        raise InputError(
            f"shards in several folders ({paths[0].parent}, {paths[-1].parent}, ...); expected one"
            " folder"
        )
    return paths


def build_index(pattern: str | Sequence[str]) -> ShardIndex:
    """Index the shards of a pattern; scans those that the cache does not know as they are."""
    paths = shard_paths(pattern)
    folder = paths[0].parent
    known = _read_cache(folder / CACHE_NAME)
    shards = []
    for path in paths:
        stat = path.stat()
        cached = known.get(path.name)
        fresh = cached and (cached.size, cached.modified_ns) == (stat.st_size, stat.st_mtime_ns)
        shards.append(cached if cached and fresh else scan(path))
    if any(known.get(shard.name) != shard for shard in shards):
        _write_cache(folder / CACHE_NAME, {**known, **{shard.name: shard for shard in shards}})
    return ShardIndex(folder, tuple(shards))


def scan(path: Path) -> Shard:
    """Read one tar's table of contents.

    Raises:
        InputError: not a tar, or cut off.
    """
    samples: dict[str, dict[str, Span]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                stem, _, suffix = member.name.rpartition("/")[2].partition(".")
                if member.isfile() and stem:
                    key = f"{member.name.rpartition('/')[0]}/{stem}".lstrip("/")
                    samples.setdefault(key, {})[suffix.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(
            f"shard {path} cannot be read as a tar ({error}); make it again"
        ) from error
    stat = path.stat()
    complete = {
        key: (next(parts[s] for s in IMAGE_SUFFIXES if s in parts), parts["txt"])
        for key, parts in samples.items()
        if "txt" in parts and any(suffix in parts for suffix in IMAGE_SUFFIXES)
    }
    if any(offset + size > stat.st_size for spans in complete.values() for offset, size in spans):
        raise InputError(f"shard {path} is cut off; make it again")
    return Shard(
        name=path.name,
        size=stat.st_size,
        modified_ns=stat.st_mtime_ns,
        keys=tuple(complete),
        images=tuple(image for image, _ in complete.values()),
        captions=tuple(caption for _, caption in complete.values()),
        incomplete=len(samples) - len(complete),
    )


def _read_cache(path: Path) -> dict[str, Shard]:
    try:
        rows = json.loads(path.read_text())
        return {row["name"]: _frozen(row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a cache that is absent or broken costs a scan, nothing else


def _frozen(row: dict[str, object]) -> Shard:
    spans = {name: tuple(tuple(span) for span in row[name]) for name in ("images", "captions")}  # type: ignore[attr-defined]
    return Shard(**{**row, "keys": tuple(row["keys"]), **spans})  # type: ignore[arg-type]


def _write_cache(path: Path, shards: dict[str, Shard]) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps([asdict(shard) for shard in shards.values()]))
        temporary.replace(path)
    except OSError:
        # A read-only data folder is fine; the scan is repeated next time.
        temporary.unlink(missing_ok=True)
