"""Tables of contents, kept in a small file beside each tar so that headers are read once."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from bksdm.atomic import replacing
from bksdm.data.contents import PARTS, Contents, scan

SIDECAR: Final = ".toc.npz"
_VERSION: Final = 2


def read_contents(file: BinaryIO, *, spare: Path | None = None, name: str = "") -> Contents:
    """The table of contents of a tar, from its sidecar if that is of this very file.

    Args:
        file: the tar, open: the cache may take its name away at any time.
        spare: a folder for the sidecar when the tar's own cannot be written to.
        name: of the shard in messages, if it is not the file's.

    Raises:
        InputError: not a tar, or cut off.
    """
    sidecars, stamp = _sidecars(file, spare), _stamp(file)
    for sidecar in sidecars:
        known = _load(sidecar, stamp)
        if known is not None:
            return known
    contents = scan(file, name=name)
    any(_save(sidecar, contents, stamp) for sidecar in sidecars)
    return contents


def last_known_digest(file: BinaryIO, *, spare: Path | None = None) -> str | None:
    """The digest of what a tar of this name held when it was last read, if a sidecar tells."""
    for sidecar in _sidecars(file, spare):
        with suppress(OSError, ValueError, KeyError), np.load(sidecar, allow_pickle=False) as old:
            known = _load(sidecar, tuple(old["stamp"].tolist()))
            if known is not None:
                return known.digest
    return None


def _sidecars(file: BinaryIO, spare: Path | None) -> list[Path]:
    path = Path(file.name)
    sidecars = [path.with_name(path.name + SIDECAR)]
    if spare is not None:
        place = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
        sidecars.append(spare / f"{place}-{path.name}{SIDECAR}")
    return sidecars


def _stamp(file: BinaryIO) -> tuple[int, int, int]:
    stat = os.fstat(file.fileno())
    return (_VERSION, stat.st_size, stat.st_mtime_ns)


def _load(sidecar: Path, stamp: tuple[int, int, int]) -> Contents | None:
    try:
        with np.load(sidecar, allow_pickle=False) as file:
            if tuple(file["stamp"].tolist()) != stamp:
                return None
            extra = json.loads(file["extra"].tobytes())
            faults = {int(row): str(reason) for row, reason in extra["faults"].items()}
            spans = file["spans"]
            contents = Contents(tuple(extra["keys"]), spans, faults, dict(extra["meta"]))
            shape = (len(contents.keys), len(PARTS), 2)
            whole = spans.shape == shape and (spans.sum(axis=2) <= stamp[1]).all()
            return contents if whole and (spans[..., 0] >= 0).all() else None
    except Exception:
        return None  # absent or broken, in whatever way: the tar is scanned again


def _save(sidecar: Path, contents: Contents, stamp: tuple[int, int, int]) -> bool:
    """True if it could be written: a read-only or full folder only costs a scan next time."""
    told = {"keys": contents.keys, "faults": contents.faults, "meta": contents.meta}
    extra = json.dumps(told).encode()
    try:
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        with replacing(sidecar) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                stamp=np.array(stamp),
                extra=np.frombuffer(extra, dtype=np.uint8),
                spans=contents.spans,
            )
    except OSError:
        return False
    return True
