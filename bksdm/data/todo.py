"""Which latent shards are still to be made, and by which process."""

import logging
from dataclasses import asdict
from pathlib import Path

from bksdm.data.index import ShardIndex
from bksdm.data.latents import LatentFormat
from bksdm.data.location import is_remote, local_path
from bksdm.data.record import read_record
from bksdm.data.table import Shard
from bksdm.errors import InputError
from bksdm.processes import Process

log = logging.getLogger(__name__)


def source_hash(shard: Shard) -> str:
    """What a latent shard remembers of the shard that it was made from."""
    return f"{shard.name} {shard.size} {shard.digest}"


def shards_to_do(
    index: ShardIndex, out: Path, shape: LatentFormat, process: Process
) -> list[tuple[int, Path]]:
    """(source shard, path of its latents) of those that this process has still to make.

    Raises:
        InputError: the folder holds latents of other settings, or the source has a name twice.
    """
    names = [shard.name for shard in index.shards]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two source shards are called {twice}; encode their folders one by one")
    if index.format:
        raise InputError("the source shards hold latents already; expected shards of pictures")
    todo = []
    for number in range(process.rank, len(names), process.world):
        path = out / names[number]
        if _to_do(path, index.shards[number], shape):
            todo.append((number, path))
    return todo


def _to_do(path: Path, source: Shard, shape: LatentFormat) -> bool:
    """Whether latents are still to be made; what is not ours is never overwritten."""
    if not is_remote(source.location) and path.resolve() == local_path(source.location).resolve():
        raise InputError(f"out={path.parent} holds the pictures themselves; use another out=")
    record = read_record(path)
    if record is None or not record.latents:
        if path.exists():
            raise InputError(
                f"{path} is there, and not of bksdm encode; use another out=, or move it away"
            )
        return True
    for name, value in asdict(shape).items():
        if record.latents.get(name) != value:
            raise InputError(
                f"{path} holds latents of other settings: {name} is {record.latents.get(name)}"
                f" there, {value} now; use another out=, or remove it"
            )
    if record.latents["source"] == source_hash(source):
        return False
    log.warning("%s was made from another %s; encoding it anew", path, source.name)
    return True
