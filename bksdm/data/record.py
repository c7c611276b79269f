"""The record beside a finished shard, in img2dataset's convention: `00000.tar` is finished when
`00000_stats.json` is there, and the record tells how many samples it holds, without a scan.

Ours also tells the shard's SHA-256 and, of latents, what they were made from.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bksdm.errors import InputError


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard.

    Attributes:
        count: samples in it.
        rejected: reason -> samples that were left out of it.
        sha256: of the file; empty if unknown.
        latents: what a latent shard says of itself; empty for pictures.
    """

    count: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""
    latents: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """As img2dataset writes it, with our fields added."""
        left_out = sum(self.rejected.values())
        values = {
            "count": self.count + left_out,
            "successes": self.count,
            "failed_to_download": 0,
            "failed_to_resize": left_out,
            "status_dict": {"success": self.count, **self.rejected},
            "sha256": self.sha256,
        }
        return json.dumps(values | ({"latents": dict(self.latents)} if self.latents else {}))


def format_of(meta: Mapping[str, Any]) -> str:
    """What all latent shards of an encoding share, as indices keep it; empty for pictures."""
    common = {name: value for name, value in meta.items() if name != "source"}
    return json.dumps(common, sort_keys=True) if common else ""


def record_name(shard: str) -> str:
    """File name of a shard's record: `00000.tar` -> `00000_stats.json`."""
    return shard.removesuffix(".tar") + "_stats.json"


def parse_record(content: bytes, *, shard: str) -> Record:
    """A record from its bytes.

    Raises:
        InputError: it does not tell the number of samples.
    """
    try:
        told = json.loads(content)
        reasons = {k: v for k, v in told.get("status_dict", {}).items() if k != "success"}
        return Record(
            int(told["successes"]), reasons, str(told.get("sha256", "")), told.get("latents") or {}
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{record_name(shard)} cannot be read ({type(error).__name__}: {error}); remove it to"
            " have the shard scanned"
        ) from error


def read_record(shard: Path) -> Record | None:
    """The record of a finished shard; None if it is not finished."""
    path = shard.with_name(record_name(shard.name))
    if not (shard.is_file() and path.is_file()):
        return None
    return parse_record(path.read_bytes(), shard=shard.name)


@contextmanager
def unfinished(shard: Path) -> Iterator[Path]:
    """A name to write a shard under. It goes if the block fails; `finish` gives it its own."""
    shard.parent.mkdir(parents=True, exist_ok=True)
    # Not shared: two processes that take the same shard by mistake must not mix their bytes.
    temporary = shard.with_name(f"{shard.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def finish(temporary: Path, shard: Path, record: Record) -> None:
    """Give a shard its name and its record, so that either is there only when both are true."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    whole = Record(record.count, record.rejected, sha256, record.latents)
    path = shard.with_name(record_name(shard.name))
    note = path.with_name(f"{temporary.name}.json")
    shard.unlink(missing_ok=True)  # an older one must not be taken for what the record tells
    try:
        note.write_text(whole.to_json())
        note.replace(path)
    finally:
        note.unlink(missing_ok=True)
    temporary.replace(shard)
