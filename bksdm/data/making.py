"""Writes shards: in parallel, one after the other or resumed, the same bytes.

A shard appears under its name once it is complete, with its record, which also names what was left
out.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Final, Protocol

from webdataset import TarWriter

from bksdm.data.record import (
    Record,
    Rejected,
    finish,
    parse_record,
    record_name,
    write_record,
)
from bksdm.errors import InputError

_POLL_SECONDS: Final = 0.2
# Workers are forked from a small server without threads, which imports what they need once.
_PROCESSES: Final = get_context("forkserver")

Members = dict[str, bytes]  # suffix to content


class Contents(Protocol):
    """What goes into one shard; travels to the process that writes it."""

    def __len__(self) -> int:
        """Samples, good and bad."""

    def __iter__(self) -> Iterator[Members | Rejected]:
        """The samples, as bytes or as what is wrong with them."""


@dataclass(frozen=True)
class PlannedShard:
    """One tar to be: where it goes, and what goes into it. Keys are the split's name and the
    sample's number in it.
    """

    folder: Path
    split: str
    number: int
    first: int
    contents: Contents

    @property
    def path(self) -> Path:
        """The tar."""
        return self.folder / f"{self.split}-{self.number:05d}.tar"

    @property
    def temporary(self) -> Path:
        """The tar while it is written."""
        return self.path.with_suffix(".tmp")

    @property
    def record(self) -> Record | None:
        """What was made of it, if it is done."""
        path = self.path.with_name(record_name(self.path.name))
        try:
            record = parse_record(path.read_bytes(), shard=self.path.name)
        except (OSError, InputError):
            return None  # not there, or cut off: it is made again
        return record if self.path.exists() or not record.count else None


def make_shards(
    shards: Sequence[PlannedShard], *, workers: int, report: Callable[[int], None]
) -> list[Record]:
    """Write the shards that are not done; `report` hears of every few samples. The result is in the
    order of the shards, whoever wrote them.

    Raises:
        InputError: a worker was killed.
        OSError: a shard cannot be written; those that are done stay.
    """
    done = {shard.path: shard.record for shard in shards}
    missing = [shard for shard in shards if done[shard.path] is None]
    for folder in {shard.folder for shard in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    if workers > 1 and len(missing) > 1:
        made = _in_processes(missing, workers=min(workers, len(missing)), report=report)
    else:
        made = [write_shard_files(shard, tick=lambda: report(1)) for shard in missing]
    done |= {shard.path: record for shard, record in zip(missing, made, strict=True)}
    return [record for record in done.values() if record is not None]


def write_shard_files(shard: PlannedShard, *, tick: Callable[[], None]) -> Record:
    """Write one tar and its record; `tick` is called for every sample. Leaves nothing behind when
    it fails. A tar without a single good sample is not written.
    """
    rejected = []
    try:
        with (
            shard.temporary.open("wb") as file,
            TarWriter(file, mtime=0, encoder=False) as tar,
        ):
            for number, sample in enumerate(shard.contents, start=shard.first):
                tick()
                if isinstance(sample, Rejected):
                    rejected.append(sample)
                else:
                    tar.write({"__key__": f"{shard.split}{number:08d}", **sample})
        record = Record(len(shard.contents) - len(rejected), tuple(rejected))
        if record.count:
            return finish(shard.temporary, shard.path, record)
        write_record(shard.path, record)
        return record
    finally:
        shard.temporary.unlink(missing_ok=True)


def _in_processes(
    shards: Sequence[PlannedShard], *, workers: int, report: Callable[[int], None]
) -> list[Record]:
    _PROCESSES.set_forkserver_preload(
        [__name__, *sorted({type(shard.contents).__module__ for shard in shards})]
    )
    ticks, stop = _PROCESSES.Value("Q", 0), _PROCESSES.RawValue("b", 0)
    pool = ProcessPoolExecutor(
        workers, mp_context=_PROCESSES, initializer=_start_worker, initargs=(ticks, stop)
    )
    try:
        futures = [pool.submit(_write_in_worker, shard) for shard in shards]
        seen = 0
        while True:
            done, pending = wait(futures, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
            now = ticks.get_obj().value  # without the lock, which a killed worker may hold
            report(now - seen)
            seen = now
            for future in done:
                future.result()
            if not pending:
                return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, perhaps for want of memory; run it again, with fewer"
            f" than workers={workers}"
        ) from error
    finally:
        stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)
        for shard in shards:
            shard.temporary.unlink(missing_ok=True)  # of killed workers


class _Stopped(Exception):  # noqa: N818 - not an error: the parent wants to end
    pass


_shared: dict[str, Any] = {}  # of a worker process: the counter and the flag of its parent


def _start_worker(ticks: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    _shared.update(ticks=ticks, stop=stop)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _write_in_worker(shard: PlannedShard) -> Record:
    return write_shard_files(shard, tick=_tick_of_worker)


def _tick_of_worker() -> None:
    with _shared["ticks"].get_lock():
        _shared["ticks"].value += 1
    if _shared["stop"].value:
        raise _Stopped
