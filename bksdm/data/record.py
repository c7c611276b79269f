"""The record beside a finished shard, in img2dataset's convention: `00000.tar` is finished when
`00000_stats.json` is there, and the record tells how many samples it holds, without a scan.

Ours also tells the shard's SHA-256 and, of latents, what they were made from.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from bksdm.atomic import replacing
from bksdm.checksum import sha256_of
from bksdm.errors import InputError


@dataclass(frozen=True, order=True)
class Rejected:
    """A sample that was left out: its file or key, why, and what the decoder said."""

    file: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard.

    Attributes:
        count: samples in it.
        rejected: samples that were left out of it; img2dataset only counts its own.
        sha256: of the file; empty if unknown.
        latents: what a latent shard says of itself; empty for pictures.
    """

    count: int
    rejected: tuple[Rejected, ...] = ()
    sha256: str = ""
    latents: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """As img2dataset writes it, with our fields added."""
        reasons = Counter(bad.reason for bad in self.rejected)
        values = {
            "count": self.count + len(self.rejected),
            "successes": self.count,
            "failed_to_download": 0,
            "status_dict": {"success": self.count, **dict(sorted(reasons.items()))},
            "sha256": self.sha256,
            "rejected": [astuple(bad) for bad in self.rejected],
        }
        latents = {"latents": dict(self.latents)} if self.latents else {}
        return json.dumps(values | latents, indent=1)


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
        latents, count = told.get("latents") or {}, told["successes"]
        whole = isinstance(count, int) and not isinstance(count, bool) and count >= 0
        if not whole or not isinstance(latents, dict):
            raise ValueError(f"successes: {count}")
        rejected = tuple(Rejected(*map(str, bad)) for bad in told.get("rejected", []))
        return Record(count, rejected, str(told.get("sha256", "")), latents)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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


def finish(temporary: Path, shard: Path, record: Record) -> Record:
    """Give a shard its name and its record, so that either is there only when both are true.

    Returns the record, with the shard's SHA-256.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    sha256 = sha256_of(temporary)
    shard.unlink(missing_ok=True)  # an older one must not be taken for what the record tells
    record = replace(record, sha256=sha256)
    write_record(shard, record)
    temporary.replace(shard)
    return record


def write_record(shard: Path, record: Record) -> None:
    """Write the record of a shard, all or nothing."""
    write_text(shard.with_name(record_name(shard.name)), record.to_json())


def write_text(path: Path, text: str) -> None:
    """Write a file under its name only once it is complete."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
