"""Shards as local files: local ones where they are, remote ones through a bounded cache that the
processes of a node share.
"""

import errno
import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from filelock import Timeout

from bksdm.data.eviction import make_room, part_path, shard_lock
from bksdm.data.filesystems import protocol, shown
from bksdm.data.location import base_name, is_remote, local_path
from bksdm.data.prefetch import Background
from bksdm.data.remote import download, size_of
from bksdm.data.sidecar import SIDECAR
from bksdm.errors import InputError

GB: Final = 10**9
Wanted = tuple[str, int | None, str]  # location, bytes if known, SHA-256 if known


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Where remote shards are kept, and how much of them.

    Attributes:
        max_gb: bound on the folder, in 10^9 bytes; shards that are being fetched at the same time
            may exceed it until the last of them is there.
        prefetch: windows that are fetched ahead of the one being read; for the caller to use.
        allow_pipe: whether `pipe:` locations may run their command.
    """

    folder: str = "~/.cache/bksdm/shards"
    max_gb: float = 100.0
    prefetch: int = 1
    allow_pipe: bool = False

    def __post_init__(self) -> None:
        if not self.folder.strip():
            raise InputError("the shard cache's folder is empty; name one, or leave it out")
        if not isinstance(self.max_gb, int | float) or not 0 < self.max_gb < float("inf"):
            raise InputError(f"the shard cache's max_gb is {self.max_gb}; expected more than 0")
        if not isinstance(self.prefetch, int) or self.prefetch < 0:
            raise InputError(
                f"the shard cache's prefetch is {self.prefetch}; expected 0 (none) or more windows"
            )


class ShardStore:
    """Turns locations into local files. Can be pickled and used after a fork."""

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self._background: Background | None = None

    def __getstate__(self) -> dict[str, CacheSettings]:
        """Settings only: threads and locks stay in their process."""
        return {"settings": self.settings}

    def __setstate__(self, state: dict[str, CacheSettings]) -> None:
        """As made anew."""
        self.settings = state["settings"]
        self._background = None

    @property
    def folder(self) -> Path:
        """The cache's folder."""
        return Path(self.settings.folder).expanduser()

    def path(self, location: str, *, size: int | None = None, sha256: str = "") -> Path:
        """A local file with the shard's bytes; waits for the download if there has to be one.

        Other processes may evict it at any time: open it at once, or use `open`.

        Raises:
            InputError: not there, refused, out of tries, not `size` bytes, not the bytes of
                `sha256`, larger than the cache, or a pipe where none is allowed.
            OSError: the disk, for instance when it is full.
        """
        if not is_remote(location):
            return local_path(location)
        self._check(location)
        shard = self._cached(location)
        if not _touch(shard, size):
            with shard_lock(shard):
                if not _touch(shard, size):
                    self._fetch(location, shard, size=size, sha256=sha256)
        return shard

    def open(self, location: str, *, size: int | None = None, sha256: str = "") -> BinaryIO:
        """The shard, open for reading: stays readable whatever is evicted. Errors as of `path`."""
        for _ in range(3):
            with suppress(FileNotFoundError):  # evicted between the two calls
                return self.path(location, size=size, sha256=sha256).open("rb")
        return self.path(location, size=size, sha256=sha256).open("rb")

    def prefetch(self, locations: Sequence[Wanted]) -> None:
        """Fetch in the background what is not here and nobody is fetching; errors are left for the
        real read.
        """
        if self._background is None or not self._background.works_here:
            self._background = Background()
        for location, size, sha256 in locations:
            if is_remote(location) and not _touch(self._cached(location), size):
                job = partial(self._fetch_if_free, location, size=size, sha256=sha256)
                self._background.submit(location, job)

    def _fetch_if_free(self, location: str, *, size: int | None, sha256: str) -> None:
        self._check(location)
        shard = self._cached(location)
        with suppress(Timeout), shard_lock(shard).acquire(blocking=False):
            if not _touch(shard, size):
                self._fetch(location, shard, size=size, sha256=sha256)

    def _fetch(self, location: str, shard: Path, *, size: int | None, sha256: str) -> None:
        part = part_path(shard)
        limit = int(self.settings.max_gb * GB)
        expected = size_of(location)
        self._check_size(location, expected, size=size)
        begun = part.stat().st_size if part.exists() else 0
        wanted = max((expected or 0) - begun, 0)
        make_room(self.folder, limit=limit, wanted=wanted, keep=shard.name)
        try:
            download(location, part, sha256=sha256)
            self._check_size(location, part.stat().st_size, size=size)
        except InputError:
            if expected is None:  # cannot be resumed, may be too large
                part.unlink(missing_ok=True)
            raise
        except OSError as error:
            if error.errno == errno.ENOSPC:
                part.unlink(missing_ok=True)
            raise
        _publish(part, shard)
        make_room(self.folder, limit=limit, wanted=0, keep=shard.name)

    def _check(self, location: str) -> None:
        if protocol(location) == "pipe" and not self.settings.allow_pipe:
            raise InputError(
                f"{location} runs a shell command with your rights; cache.allow_pipe=true"
                " (in train: data.cache.allow_pipe) allows it"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the shard cache's folder {self.folder} cannot be made ({error.strerror}); name"
                " another"
            ) from error

    def _check_size(self, location: str, found: int | None, *, size: int | None) -> None:
        if found is None:
            return
        if size is not None and found != size:
            raise InputError(
                f"{shown(location)} has {found} bytes, its index says {size}; one of them has"
                " changed: make the index again"
            )
        if found > self.settings.max_gb * GB:
            raise InputError(
                f"{shown(location)} has {found / GB:.3g} GB, more than the whole shard cache"
                f" (max_gb={self.settings.max_gb:g}); raise it"
            )

    def _cached(self, location: str) -> Path:
        # The hash tells apart shards of one name in different places.
        digest = hashlib.sha256(location.encode()).hexdigest()[:12]
        return self.folder / f"{digest}-{base_name(location)[-120:]}"


def _touch(shard: Path, size: int | None) -> bool:
    """Mark a shard as used; False if it is not there, or is not of that size."""
    try:
        stat = shard.stat()
        if size is not None and stat.st_size != size:
            return False
        with suppress(PermissionError):  # another user's: read it, and let it age
            os.utime(shard, ns=(time.time_ns(), stat.st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _publish(part: Path, shard: Path) -> None:
    # Without this a machine that dies may leave a shard of the right name and no bytes.
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    shard.with_name(shard.name + SIDECAR).unlink(missing_ok=True)
    part.replace(shard)
