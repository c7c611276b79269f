"""Training data as WebDataset streams it: shards drawn with replacement, read from end to end,
samples mixed in a buffer.

For stores that are too slow or too large to be indexed. It gives up what the exact order promises:
some samples come twice in an epoch's length and some not at all, a resumed run goes on with other
samples, and what a sample's noise is depends on the number of processes and workers.
"""

import hashlib
import io
import json
import logging
import random
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Final

import numpy as np
import webdataset as wds
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_expander

from bksdm.batch import Fault, TextImageBatch
from bksdm.data.contents import META, PARTS
from bksdm.data.decode import BadSampleError
from bksdm.data.exact import Loading, Part
from bksdm.data.filesystems import PIPE, filesystem, protocol, shown
from bksdm.data.location import base_name, local_path
from bksdm.data.samples import SampleSettings, assemble, decoded, drawn
from bksdm.errors import InputError

log = logging.getLogger(__name__)
MAX_FAILURES_IN_A_ROW: Final = 10  # shards that cannot be read
_SUFFIXES: Final = tuple(f".{suffix}" for suffixes in PARTS.values() for suffix in suffixes)
_STREAM: Final = 3  # a random stream of the seed beside those of `order`


@dataclass(frozen=True)
class StreamTraining:
    """Shards that are streamed.

    Attributes:
        locations: of the shards.
        settings: what is made of a sample.
        seed: of shards, buffer and samples.
        buffer: samples among which the next one is drawn, a worker.
        accumulation: micro-batches an optimiser step, from batch size and number of processes.
    """

    locations: tuple[str, ...]
    settings: SampleSettings
    seed: int
    buffer: int
    global_batch: int

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

    def loader(self, part: Part, loading: Loading) -> DataLoader[TextImageBatch]:
        """Micro-batches without end; as long as the run to whoever asks."""
        return loading.loader(Stream(self, part), batch_size=None)


class Stream(IterableDataset[TextImageBatch]):
    """The batches of one process; its workers stream different shards."""

    def __init__(self, training: StreamTraining, part: Part) -> None:
        self.training = training
        self.part = part

    def __len__(self) -> int:
        steps = self.part.last_step * self.training.global_batch
        return steps // (self.part.batch * self.part.world)

    def __iter__(self) -> Iterator[TextImageBatch]:
        settings, worker = self.training.settings, get_worker_info()
        words = np.random.SeedSequence(
            (
                self.training.seed,
                _STREAM,
                self.part.rank,
                worker.id if worker else 0,
                self.part.first_step,
            )
        )
        faults: list[Fault] = []
        samples: list[tuple[dict[str, Tensor], str]] = []
        draws: list[tuple[int, bool, bool]] = []
        for sample in self._raw(int(words.generate_state(1)[0]), faults):
            draw = drawn(_next_seed(words), settings)
            try:
                samples.append(decoded(partial(_part, sample), settings, flip=draw[1]))
            except BadSampleError as error:
                faults.append(Fault(base_name(sample["__url__"]), sample["__key__"], error.reason))
                continue
            draws.append(draw)
            if len(samples) == self.part.batch:
                yield assemble(
                    samples,
                    seeds=[seed for seed, _, _ in draws],
                    dropped=[drop for _, _, drop in draws],
                    faults=faults,
                    settings=settings,
                )
                samples, draws, faults[:] = [], [], []

    def _raw(self, seed: int, faults: list[Fault]) -> Iterator[dict[str, Any]]:
        """Samples as bytes, from WebDataset's own stages but for opening: its own opens addresses
        through a shell.
        """
        shards = wds.shardlists.ResampledShards(
            list(self.training.locations), deterministic=True, worker_seed=lambda: seed
        )
        stages = [
            shards,
            partial(_expanded, faults=faults),
            wds.filters.shuffle(self.training.buffer, rng=random.Random(seed)),
        ]
        yield from wds.DataPipeline(*stages)


def first_meta(location: str) -> dict[str, Any]:
    """What a latent shard says of itself, from its first member; empty for pictures.

    Raises:
        InputError: the shard cannot be read.
    """

    try:
        with _opened(location) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            member = tar.next()
            file = tar.extractfile(member) if member and member.name == META else None
            return json.loads(file.read()) if file else {}
    except (OSError, tarfile.TarError, ValueError) as error:
        raise InputError(f"shard {shown(location)} cannot be streamed ({error})") from error


def _expanded(shards: Iterable[dict[str, Any]], *, faults: list[Fault]) -> Iterator[dict[str, Any]]:
    """The samples of shards; one that cannot be read to its end is noted."""
    failures = 0
    for shard in shards:
        location = shard["url"]
        try:
            with _opened(location) as stream:
                source = [{"url": location, "stream": stream}]
                files = tar_file_expander(source, select_files=_is_wanted)
                yield from group_by_keys(files, suffixes=None)
            failures = 0
        except (OSError, tarfile.TarError, ValueError, EOFError) as error:
            failures += 1
            faults.append(Fault(base_name(location), "", "shard cannot be read to its end"))
            if failures == MAX_FAILURES_IN_A_ROW:
                raise InputError(
                    f"{failures} shards in a row could not be read, the last one was"
                    f" {shown(location)} ({error}); check the store, then run the same command"
                ) from error


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
    return io.BufferedReader(opened) if isinstance(opened, io.RawIOBase) else opened


def _is_wanted(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _part(sample: dict[str, Any], part: str) -> bytes:
    data = next((sample[suffix] for suffix in PARTS[part] if suffix in sample), None)
    if data is None:
        raise BadSampleError("no picture" if part == "image" else f"no {part}")
    return bytes(data)


def _next_seed(words: np.random.SeedSequence) -> int:
    return int(words.spawn(1)[0].generate_state(1, np.uint64)[0] >> 1)
