"""Which samples of a data set are trained on: those that a router sends to an expert, say."""

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from bksdm.atomic import replacing
from bksdm.data.index import ShardIndex
from bksdm.errors import InputError

ALL: Final = "all"  # `data.selection=all`: no selection, also where one lies beside a plan

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Selection:
    """Samples of a data set, by number: those of the index's first shard come first, in its rows'
    order.

    Attributes:
        samples: (N,), increasing.
        index: fingerprint of the index that they are numbers of.
    """

    samples: Rows
    index: str

    def __post_init__(self) -> None:
        samples = np.asarray(self.samples)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.integer):
            raise InputError(
                f"selection: samples of shape {samples.shape} and type {samples.dtype}; expected a"
                " list of whole numbers"
            )
        samples = samples.astype(np.int64)
        if len(samples) and (samples[0] < 0 or (np.diff(samples) <= 0).any()):
            raise InputError("selection: expected increasing numbers of samples, from 0 on")
        samples.flags.writeable = False
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "index", str(self.index))

    @cached_property
    def fingerprint(self) -> str:
        """Changes with what is selected, and of what; not with where the file lies."""
        told = self.index.encode() + self.samples.astype("<i8").tobytes()
        return hashlib.sha256(told).hexdigest()[:16]

    @property
    def record(self) -> str:
        """What a checkpoint keeps of it."""
        return f"{len(self.samples):,} samples ({self.fingerprint})"

    def write(self, path: Path) -> None:
        """Write an npz file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, samples=self.samples, index=np.array(self.index))

    @classmethod
    def read(cls, path: Path) -> "Selection":
        """What `write` wrote.

        Raises:
            InputError: it is missing, or something else.
        """
        wanted = (
            "expected a file that `bksdm route` wrote, such as runs/ROUTE/experts/0/samples.npz"
        )
        try:
            with np.load(path, allow_pickle=False) as content:
                return cls(content["samples"], str(content["index"]))
        except FileNotFoundError:
            raise InputError(f"data.selection={path}: no such file; {wanted}") from None
        # A single array has no names: it is no context either.
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise InputError(f"data.selection={path}: no selection; {wanted}") from error
        except (zipfile.BadZipFile, InputError) as error:
            raise InputError(f"data.selection={path}: {error}; {wanted}") from error

    def rows(self, index: ShardIndex) -> tuple[Rows, ...]:
        """The selected rows of each shard, increasing; empty for one of which nothing is selected.

        Raises:
            InputError: the numbers are of another data set.
        """
        beyond = len(self.samples) and self.samples[-1] >= index.samples
        if self.index != index.fingerprint or beyond:
            raise InputError(
                f"data.selection: its samples were routed on other data (index {self.index}, now"
                f" {index.fingerprint}); give the data.shards that `bksdm route` had, route again,"
                f" or take data.selection={ALL}"
            )
        ends = np.cumsum(np.asarray(index.counts, dtype=np.int64))
        starts = ends - np.asarray(index.counts, dtype=np.int64)
        parts = np.split(self.samples, np.searchsorted(self.samples, ends[:-1]))
        return tuple(part - start for part, start in zip(parts, starts, strict=True))

    def part_of(self, index: ShardIndex) -> tuple[ShardIndex, tuple[Rows, ...]]:
        """The shards of which something is selected, and which rows.

        Raises:
            InputError: the numbers are of another data set, or nothing is selected.
        """
        found = [pair for pair in zip(index.shards, self.rows(index), strict=True) if len(pair[1])]
        if not found:
            raise InputError(
                "data.selection: it holds no sample: nothing was routed to this expert; train"
                f" another, or take data.selection={ALL}"
            )
        shards, rows = zip(*found, strict=True)
        return ShardIndex(shards), rows


def selection_of(setting: str | None, *, mode: str) -> Selection | None:
    """What `data.selection` says of samples that are read in this `data.mode`; None where all are
    taken.

    Raises:
        InputError: see `Selection.read`; or a stream cannot select.
    """
    if setting is None or setting == ALL:
        return None
    if not isinstance(setting, str):
        raise InputError(f"data.selection={setting}: expected a file, {ALL}, or null")
    if mode != "exact":
        raise InputError(
            f"data.selection={setting} with data.mode={mode}: only mode=exact knows which sample is"
            f" which; use that, or data.selection={ALL}"
        )
    return Selection.read(Path(setting).expanduser())
