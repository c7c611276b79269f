"""What shards really hold: every byte of every sample read and decoded, nothing trained."""

import hashlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from bksdm.data.contents import Contents
from bksdm.data.decode import BadSampleError, decode_caption, decode_latents, decode_picture
from bksdm.data.filesystems import shown
from bksdm.data.index import record_of
from bksdm.data.location import base_name
from bksdm.data.record import Record, format_of, parse_record
from bksdm.data.sidecar import read_contents
from bksdm.data.store import ShardStore
from bksdm.data.table import folder_of
from bksdm.errors import InputError, told_plainly

_EMPTY: Final = np.empty(0, dtype=np.int64)
_LOOKS_AT_ONCE: Final = 32
# Workers are forked from a small server without threads.
_PROCESSES: Final = get_context("forkserver")


@dataclass(frozen=True)
class Findings:
    """What was found in one shard.

    Attributes:
        location: of the shard.
        samples: good and bad.
        bad: reason -> keys of the samples.
        tokens: number of tokens, with the two that mark the ends -> good samples.
        unknown: captions with something that the tokenizer has no token for.
        sizes: width and height in pixels, or of latents -> good samples.
        keys: hash of each key.
        pictures: hash of each good picture's bytes.
        format: what a latent shard says of itself; empty for pictures.
        broken: what is wrong with the shard itself; empty if nothing is.
    """

    location: str
    samples: int = 0
    bad: dict[str, list[str]] = field(default_factory=dict)
    tokens: Counter[int] = field(default_factory=Counter)
    unknown: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    keys: npt.NDArray[np.int64] = field(default_factory=lambda: _EMPTY)
    pictures: npt.NDArray[np.int64] = field(default_factory=lambda: _EMPTY)
    format: str = ""
    broken: str = ""

    @property
    def bad_samples(self) -> int:
        """Number of bad samples."""
        return sum(map(len, self.bad.values()))


def check_shards(
    locations: Sequence[str],
    tokenizer: Any,
    *,
    store: ShardStore,
    workers: int,
    on_shards: Callable[[int], None],
) -> list[Findings]:
    """Look into every shard; `on_shards` hears of each that is done."""
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as threads:
        records = dict(zip(locations, threads.map(record_of, locations), strict=True))
    recorded = {folder_of(location) for location, record in records.items() if record is not None}
    tasks = [
        (location, records[location], folder_of(location) in recorded) for location in locations
    ]
    found: dict[str, Findings] = {}
    for findings in _findings(tasks, tokenizer, store, workers=workers):
        found[findings.location] = findings
        on_shards(1)
    return [found[location] for location in locations]


Task = tuple[str, bytes | None, bool]


def _findings(
    tasks: Sequence[Task], tokenizer: Any, store: ShardStore, *, workers: int
) -> Iterator[Findings]:
    if workers == 1 or len(tasks) == 1:
        for location, record, expected in tasks:
            yield check_shard(location, record, tokenizer, store=store, recorded=expected)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        mp_context=_PROCESSES,
        initializer=_start_worker,
        initargs=(tokenizer, store),
    )
    try:
        for future in as_completed([pool.submit(_check_in_worker, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_shared: dict[str, Any] = {}  # of a worker process


def _start_worker(tokenizer: Any, store: ShardStore) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    _shared.update(tokenizer=tokenizer, store=store)


def _check_in_worker(task: Task) -> Findings:
    location, record, expected = task
    with told_plainly():
        return check_shard(
            location, record, _shared["tokenizer"], store=_shared["store"], recorded=expected
        )


def check_shard(
    location: str, record: bytes | None, tokenizer: Any, *, store: ShardStore, recorded: bool
) -> Findings:
    """Look into one shard.

    Args:
        location: of the shard.
        record: what its maker left beside it, if anything.
        tokenizer: of the captions.
        store: fetches remote shards.
        recorded: whether shards without a record count as unfinished.
    """
    try:
        told = None if record is None else parse_record(record, shard=base_name(location))
        with store.open(location) as file:
            contents = read_contents(file, spare=store.folder, name=shown(location))
            broken = _contradiction(file, contents, told, recorded=recorded)
            return _look(location, file, contents, tokenizer, broken=broken)
    except FileNotFoundError:
        return Findings(location, broken="it has gone")
    except InputError as error:
        return Findings(location, broken=str(error).removeprefix(f"shard {shown(location)} "))


def _contradiction(
    file: BinaryIO, contents: Contents, record: Record | None, *, recorded: bool
) -> str:
    """What the shard's record says otherwise."""
    if record is None:
        return "unfinished: no _stats.json, but its neighbours have one" if recorded else ""
    if record.count != len(contents):
        return f"it holds {len(contents)} samples, {record.count} by its _stats.json"
    if record.sha256:
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:  # type: ignore[arg-type]
            return "its SHA-256 is not that of its _stats.json"
    return ""


def _look(
    location: str, file: BinaryIO, contents: Contents, tokenizer: Any, *, broken: str
) -> Findings:
    bad: dict[str, list[str]] = {}
    captions, sizes, pictures = [], [], []
    for row, key in enumerate(contents.keys):
        try:
            caption, size, picture = _sample(file, contents, row)
        except BadSampleError as error:
            bad.setdefault(error.reason, []).append(key)
            continue
        captions.append(caption)
        sizes.append(size)
        pictures.append(_hash(picture))
    tokens = tokenizer(captions).input_ids if captions else []
    return Findings(
        location,
        samples=len(contents),
        bad=bad,
        tokens=Counter(map(len, tokens)),
        # CLIP's mark of the end is its unknown token, too.
        unknown=sum(tokenizer.unk_token_id in ids[:-1] for ids in tokens),
        sizes=Counter(sizes),
        keys=np.array([_hash(key.encode(errors="surrogateescape")) for key in contents.keys]),
        pictures=np.array(pictures, dtype=np.int64),
        format=format_of(contents.meta),
        broken=broken,
    )


def _sample(file: BinaryIO, contents: Contents, row: int) -> tuple[str, tuple[int, int], bytes]:
    if row in contents.faults:
        raise BadSampleError(contents.faults[row])
    caption = decode_caption(_bytes(file, contents, row, "caption"))
    if not contents.meta:
        picture = _bytes(file, contents, row, "image")
        return caption, decode_picture(picture).size, picture
    picture = _bytes(file, contents, row, "moments")
    values = decode_latents(picture)
    told = contents.meta
    parts = ["flipped"] * bool(told.get("flips")) + ["text"] * bool(told.get("text_hash"))
    arrays = [values, *(decode_latents(_bytes(file, contents, row, part)) for part in parts)]
    if not all(np.isfinite(array).all() for array in arrays):
        raise BadSampleError("latents are not finite")
    return caption, (values.shape[-1], values.shape[-2]), picture


def _bytes(file: BinaryIO, contents: Contents, row: int, part: str) -> bytes:
    span = contents.span(row, part)
    if span is None:
        raise BadSampleError(f"no {part}")
    file.seek(span[0])
    return file.read(span[1])


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)
