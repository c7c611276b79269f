"""Training data as WebDataset streams it: shards drawn with replacement, read from end to end,
samples mixed in a buffer.

For stores that are too slow or too large to be indexed. It gives up what the exact order promises:
some samples come twice in an epoch's length and some not at all, a resumed run goes on with other
samples, and what a sample's noise is depends on the number of processes and workers.
"""

import hashlib
import random
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, Final

import numpy as np
import webdataset as wds
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bksdm.batch import Fault, TextImageBatch
from bksdm.data.contents import META, PARTS, is_data, is_unsafe, plain_meta, split_name
from bksdm.data.decode import BadSampleError
from bksdm.data.exact import Loading, Share
from bksdm.data.filesystems import PIPE, filesystem, protocol, shown
from bksdm.data.location import base_name, local_path
from bksdm.data.record import format_of
from bksdm.data.samples import SampleSettings, assemble, decoded, drawn
from bksdm.errors import InputError, told_plainly

MAX_BAD_IN_A_ROW: Final = 1000  # samples
MAX_FAILURES_IN_A_ROW: Final = 10  # shards without a sample
_STREAM: Final = 3  # a random stream of the seed beside those of `order`


@dataclass(frozen=True)
class StreamTraining:
    """Shards that are streamed.

    Attributes:
        locations: of the shards.
        settings: what is made of a sample.
        seed: of shards, buffer and samples.
        buffer: samples among which the next one is drawn, a worker.
        global_batch: samples an optimiser step.
        format: what every shard must say of itself; empty for pictures.
    """

    locations: tuple[str, ...]
    settings: SampleSettings
    seed: int
    buffer: int
    global_batch: int
    format: str = ""

    @property
    def description(self) -> str:
        """In words."""
        kind = "latents" if self.format else "pictures"
        return f"a stream of {kind} from {len(self.locations):,} shards"

    def fingerprint(self) -> dict[str, Any]:
        """What must not change when a run resumes, as far as a stream can promise that."""
        digest = hashlib.sha256("\n".join(map(base_name, self.locations)).encode()).hexdigest()
        return {
            "order": {"mode": "stream", "seed": self.seed, "global_batch": self.global_batch},
            "training": {
                "hash": digest[:16],
                "shards": dict.fromkeys(map(base_name, self.locations), ""),
            },
        }

    def samples_of(self, step: int) -> list[str]:
        """None are known once they have gone by."""
        del step
        return []

    def loader(self, share: Share, loading: Loading) -> DataLoader[TextImageBatch]:
        """Micro-batches without end; as many as the run has to whoever asks."""
        return loading.loader(Stream(self, share), batch_size=None)


@dataclass(frozen=True)
class RawSample:
    """Parts of a sample as bytes, under their suffixes."""

    shard: str
    key: str
    parts: dict[str, bytes] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)

    def read(self, part: str) -> bytes:
        """A part (see `contents.PARTS`).

        Raises:
            BadSampleError: the sample has a fault, or no such part.
        """
        if is_unsafe(self.key):
            raise BadSampleError("unsafe name")
        if self.twice:
            raise BadSampleError("duplicate key")
        suffix = next((suffix for suffix in PARTS[part] if suffix in self.parts), None)
        if suffix is None:
            raise BadSampleError("no picture" if part == "image" else f"no {part}")
        return self.parts[suffix]


class Stream(IterableDataset[TextImageBatch]):
    """The batches of one process; its workers stream different shards."""

    def __init__(self, training: StreamTraining, share: Share) -> None:
        self.training = training
        self.share = share

    def __len__(self) -> int:
        samples = self.share.last_step * self.training.global_batch
        return samples // (self.share.batch * self.share.world)

    def __iter__(self) -> Iterator[TextImageBatch]:
        worker = get_worker_info()
        words = np.random.SeedSequence(
            (
                self.training.seed,
                _STREAM,
                self.share.rank,
                worker.id if worker else 0,
                self.share.first_step,
            )
        )
        batches = self._batches(words)
        while True:
            with told_plainly():
                batch = next(batches)
            yield batch

    def _batches(self, words: np.random.SeedSequence) -> Iterator[TextImageBatch]:
        settings, faults = self.training.settings, list[Fault]()
        samples: list[tuple[dict[str, Tensor], str]] = []
        draws: list[tuple[int, bool, bool]] = []
        bad_in_a_row = 0
        for sample in self._raw(int(words.generate_state(1)[0]), faults):
            draw = drawn(_next_seed(words), settings)
            try:
                samples.append(decoded(sample.read, settings, flip=draw[1]))
            except BadSampleError as error:
                faults.append(Fault(base_name(sample.shard), sample.key, error.reason))
                bad_in_a_row += 1
                if bad_in_a_row == MAX_BAD_IN_A_ROW:
                    raise InputError(
                        f"{bad_in_a_row} bad samples in a row, the last one in"
                        f" {shown(sample.shard)} ({error}); look with `bksdm check`"
                    ) from error
                continue
            bad_in_a_row = 0
            draws.append(draw)
            if len(samples) == self.share.batch:
                yield assemble(
                    samples,
                    seeds=[seed for seed, _, _ in draws],
                    dropped=[drop for _, _, drop in draws],
                    faults=faults,
                    settings=settings,
                )
                samples, draws, faults[:] = [], [], []

    def _raw(self, seed: int, faults: list[Fault]) -> Iterator[RawSample]:
        """WebDataset's pipeline, but for opening and grouping: its own opens addresses through a
        shell, ends a shard at a key that comes twice, and passes over what latents say of
        themselves.
        """
        shards = wds.shardlists.ResampledShards(
            list(self.training.locations), deterministic=True, worker_seed=lambda: seed
        )
        samples = partial(_samples, expected=self.training.format, faults=faults)
        mixed = wds.filters.shuffle(self.training.buffer, rng=random.Random(seed))
        yield from wds.DataPipeline(shards, samples, mixed)


def first_meta(location: str) -> dict[str, Any]:
    """What a latent shard says of itself, from its first member; empty for pictures.

    Raises:
        InputError: the shard cannot be read.
    """
    try:
        with _opened(location) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            member = tar.next()
            file = tar.extractfile(member) if member and member.name == META else None
            return plain_meta(file.read()) if file else {}
    except (OSError, tarfile.TarError, ValueError, RecursionError) as error:
        raise InputError(f"shard {shown(location)} cannot be streamed ({error})") from error


def _samples(
    shards: Iterable[dict[str, Any]], *, expected: str, faults: list[Fault]
) -> Iterator[RawSample]:
    """The samples of shards; one that cannot be read to its end is noted."""
    failures = 0
    for shard in shards:
        location, said = shard["url"], "it is empty"
        failures += 1
        try:
            for sample in _grouped(location, expected=expected):
                failures = 0
                yield sample
        except (OSError, tarfile.TarError, EOFError, RecursionError) as error:
            said = str(error)
            faults.append(Fault(base_name(location), "", "shard cannot be read to its end"))
        if failures == MAX_FAILURES_IN_A_ROW:
            raise InputError(
                f"no sample in {failures} shards in a row, the last one was {shown(location)}"
                f" ({said}); check the store, then run the same command"
            )


def _grouped(location: str, *, expected: str) -> Iterator[RawSample]:
    """The samples of one shard, whose members lie side by side as WebDataset wants them."""
    found = ""
    sample: RawSample | None = None
    with _opened(location) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # or it remembers them all
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None and member.name == META:
                found = format_of(plain_meta(file.read()))
            elif file is not None and is_data(member):
                _refuse_other(found, expected, location)
                key, suffix = split_name(member.name)
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield sample
                    sample = RawSample(location, key)
                if suffix in sample.parts:
                    sample.twice.add(suffix)
                elif suffix in _SUFFIXES:
                    sample.parts[suffix] = file.read()
    if sample is not None:
        yield sample


_SUFFIXES: Final = frozenset(suffix for suffixes in PARTS.values() for suffix in suffixes)


def _refuse_other(found: str, expected: str, location: str) -> None:
    if found != expected:
        raise InputError(
            f"shard {shown(location)} is of another kind than the first one"
            f" ({found or 'pictures'}, {expected or 'pictures'}); expected one kind"
        )


def _opened(location: str) -> IO[bytes]:
    if protocol(location) == "":
        return local_path(location).open("rb")
    if protocol(location) == "pipe":
        command = location.removeprefix(PIPE)
        process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE)
        assert process.stdout is not None
        return process.stdout
    files, path = filesystem(location)
    opened: IO[bytes] = files.open(path, "rb", cache_type="readahead", block_size=2**22)
    return opened


def _next_seed(words: np.random.SeedSequence) -> int:
    return int(words.spawn(1)[0].generate_state(1, np.uint64)[0] >> 1)
