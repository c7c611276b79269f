"""Bytes over the wire: sizes, small files and resumable downloads, with bounded retries.

Knows nothing of shards, indexes or the cache.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fsspec.asyn import AsyncFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from bksdm.checksum import sha256_of
from bksdm.data.faults import AbsentError, Verdict, explained, verdict
from bksdm.data.filesystems import PIPE, filesystem, is_web, protocol, shown
from bksdm.errors import InputError

TRIES = 6  # of every chunk, not of a whole shard
FIRST_WAIT_S = 0.5  # doubles with every try, plus up to as much at random
LONGEST_WAIT_S = 30.0
CHUNK = 8 * 2**20  # bytes; what a broken connection costs

T = TypeVar("T")


class _RangeIgnoredError(InputError):
    """The server answers the whole object whatever part is asked for."""


def size_of(location: str) -> int | None:
    """Bytes of an object; None where the server does not say, and for a pipe.

    Raises:
        AbsentError: nothing there.
        InputError: refused, or out of tries.
    """
    if protocol(location) == "pipe":
        return None

    def ask() -> int | None:
        files, path = filesystem(location)
        size = files.info(path).get("size")
        return None if size is None else int(size)

    return _persist(ask, location)


def read_small(location: str) -> bytes | None:
    """The whole of a small object; None if it is not there, or for a pipe.

    A refusal also means None: object stores answer 403 for what is missing to whoever may not
    list. Where the rights really are wrong, reading the shards says so.

    Raises:
        InputError: out of tries.
    """
    if protocol(location) == "pipe":
        return None

    def ask() -> bytes | None:
        files, path = filesystem(location)
        try:
            return bytes(files.cat_file(path))
        except Exception as error:
            if verdict(error) in (Verdict.ABSENT, Verdict.REFUSED):
                return None
            raise

    return _persist(ask, location)


def matches(pattern: str) -> list[str]:
    """Locations that a remote glob stands for, sorted.

    Raises:
        InputError: refused, or out of tries.
    """

    def ask() -> list[str]:
        files, path = filesystem(pattern)
        prefix = pattern[: len(pattern) - len(path)] if pattern.endswith(path) else ""
        if not prefix:
            return sorted(files.unstrip_protocol(found) for found in files.glob(path))
        return sorted(prefix + str(found) for found in files.glob(path))

    try:
        return _persist(ask, pattern)
    except AbsentError:
        return []


def download(location: str, target: Path, *, sha256: str = "") -> None:
    """Fetch an object into `target`, going on from where a `target` that is there ends.

    What is in `target` after an error is the beginning of the object; the caller renames it when
    this returns.

    Raises:
        AbsentError: nothing there.
        InputError: refused, out of tries, or twice not the bytes that `sha256` (hexadecimal) names.
        OSError: the disk, for instance when it is full.
    """
    found = ""
    for _ in range(2):
        _fetch(location, target)
        found = sha256_of(target) if sha256 else ""
        if found == sha256.lower():
            return
        target.unlink()
    raise InputError(
        f"{shown(location)} has SHA-256 {found}, expected {sha256.lower()}; it is damaged or has"
        " changed: upload it again or make its index again"
    )


def _fetch(location: str, target: Path) -> None:
    if protocol(location) == "pipe":
        _persist(lambda: _run(location.removeprefix(PIPE), target), location)
        return
    size = size_of(location)
    try:
        if not size:  # some servers answer HEAD with a length of 0
            raise _RangeIgnoredError("without a size there is no telling where an object ends")
        _fetch_chunks(location, target, size=size)
    except _RangeIgnoredError:
        _persist(lambda: _fetch_whole(location, target, size=size or None), location)


def _fetch_chunks(location: str, target: Path, *, size: int) -> None:
    start = target.stat().st_size if target.exists() else 0
    with target.open("r+b" if 0 < start <= size else "wb") as file:
        start = file.seek(0, 2)
        while start < size:
            end = min(start + CHUNK, size)

            def ask(start: int = start, end: int = end) -> bytes:
                return _chunk(location, start=start, end=end, size=size)

            data = _persist(ask, location)
            file.write(data)
            start += len(data)


def _chunk(location: str, *, start: int, end: int, size: int) -> bytes:
    files, path = filesystem(location)
    if is_web(location):
        data = _web_chunk(files, path, start=start, end=end, size=size)
    elif isinstance(files, AsyncFileSystem):
        data = files.cat_file(path, start=start, end=end)
    else:
        data = files.cat_file(path, start=start, end=end, cache_type="none")
    if len(data) < end - start:
        raise EOFError(f"{len(data)} of {end - start} bytes from {start} came")
    if len(data) > end - start:
        raise _RangeIgnoredError("more bytes than asked for")
    return bytes(data)


def _web_chunk(files: Any, path: str, *, start: int, end: int, size: int) -> bytes:
    # A file rather than `cat_file`, which would take in a whole shard from a server that ignores
    # Range; this one reads no further than asked, and says so where the beginning is not asked.
    with files.open(path, "rb", size=size, block_size=CHUNK, cache_type="none") as file:
        try:
            return bytes(file.cache._fetch(start, end))  # noqa: SLF001
        except ValueError as error:
            raise _RangeIgnoredError(str(error)) from error


def _fetch_whole(location: str, target: Path, *, size: int | None) -> None:
    files, path = filesystem(location)
    files.get_file(path, str(target))
    found = target.stat().st_size
    if size is not None and found != size:
        raise EOFError(f"{found} of {size} bytes came")


def _run(command: str, target: Path) -> None:
    with target.open("wb") as file:
        done = subprocess.run(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE
        )
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode:
        raise EOFError(f"exit code {done.returncode}: {lines[-1] if lines else 'no message'}")
    if not target.stat().st_size:
        raise EOFError("the command wrote nothing")


def _persist(action: Callable[[], T], location: str) -> T:
    retrying = Retrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential_jitter(FIRST_WAIT_S, LONGEST_WAIT_S, jitter=FIRST_WAIT_S),
        retry=retry_if_exception(lambda error: verdict(error) is Verdict.PASSING),
        reraise=True,
    )
    try:
        return retrying(action)
    except Exception as error:
        final = explained(error, location, tries=TRIES)
        if final is error:
            raise
        raise final from error
