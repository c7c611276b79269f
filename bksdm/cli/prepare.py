"""bksdm prepare."""

import csv
import io
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from omegaconf import DictConfig
from tqdm import tqdm

from bksdm.cli.claim import claim
from bksdm.cli.config import built, plain
from bksdm.data.cutting import SPLITS, Cut, ShapesSource, drawn_shards, picture_shards
from bksdm.data.index import build_index
from bksdm.data.listing import CocoSource, FolderSource, Listing, Rejected
from bksdm.data.making import Shard, Stats, make_shards, write_text
from bksdm.errors import InputError

REJECTED: Final = "rejected.csv"
MAX_WORKERS: Final = 8


def run(config: DictConfig) -> int:
    """Write the shards that are not there yet."""
    values = plain(config)
    source = built(config.source, object)
    shared = {name: values[name] for name in ("samples_per_shard", "validation_samples", "seed")}
    cut, workers, folder = Cut(**shared), _workers(config.workers), Path(config.out)
    listing: Listing | None = None
    if isinstance(source, ShapesSource):
        shards = drawn_shards(source, cut, folder=folder)
    else:
        assert isinstance(source, FolderSource | CocoSource)
        listing = source.listing()
        print(f"{len(listing.samples):,} samples in {listing.root}, captions: {listing.origin}")
        shards = picture_shards(listing, cut, folder=folder, short_side=source.short_side)
    claim(folder, values, listing)
    with Progress(sum(len(s.contents) for s in shards if not s.stats)) as progress:
        results = make_shards(shards, workers=workers, report=progress.advance)
    if listing is not None:
        _tell_rejected(folder, [*listing.rejected, *(r for s in results for r in s.rejected)])
    _check_splits(folder, shards, results)
    for split in SPLITS:
        index = build_index(str(folder / f"{split}-*.tar"))
        print(
            f"{split}: {sum(index.counts)} samples in {len(index.shards)} shards of {folder}, "
            f"index {index.fingerprint}"
        )
    return 0


def _workers(wanted: object) -> int:
    if wanted is None:
        known = hasattr(os, "sched_getaffinity")  # the cores we may use, where that is known
        return min(len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1, MAX_WORKERS)
    if not isinstance(wanted, int) or wanted < 1:
        raise InputError(f"workers={wanted}: expected a number, at least 1, or null")
    return wanted


def _tell_rejected(folder: Path, rejected: Sequence[Rejected]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "reason", "detail"])
    writer.writerows([bad.file, bad.reason, bad.detail] for bad in sorted(rejected))
    write_text(folder / REJECTED, text.getvalue())
    if rejected:
        reasons = Counter(bad.reason for bad in rejected)
        rows = [("left out", "samples"), *reasons.most_common(), ("all", len(rejected))]
        width = max(len(reason) for reason, _ in rows)
        print("\n".join(f"{reason.ljust(width)}  {count:>7}" for reason, count in rows))
        print(f"each by name: {folder / REJECTED}")


def _check_splits(folder: Path, shards: Sequence[Shard], results: Sequence[Stats]) -> None:
    kept = Counter(dict.fromkeys(SPLITS, 0))
    for shard, stats in zip(shards, results, strict=True):
        kept[shard.split] += stats.successes
    empty = [split for split in SPLITS if not kept[split]]
    if empty:
        raise InputError(
            f"{folder}: no usable sample for {' and '.join(empty)}; see {REJECTED} in it, then"
            " remove it" + ("" if len(empty) > 1 else " and run it with another seed=")
        )


class Progress:
    """A bar on a terminal, else a line now and then; both tell rate and time left. SIGINT and
    SIGTERM are noted, and raised from `advance`: raised anywhere else they could leave a lock of
    the pool of workers held.
    """

    def __init__(self, total: int, *, seconds: float = 30) -> None:
        self.total, self.seconds, self.done = total, seconds, 0
        self._begin = self._printed = time.monotonic()
        self._bar = tqdm(total=total, unit="image", disable=None if total else True)
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Progress":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._bar.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received.append(number)

    def advance(self, count: int) -> None:
        """So many samples more are done."""
        if self._received:
            raise SystemExit(128 + self._received[0])
        self.done += count
        self._bar.update(count)
        now = time.monotonic()
        if not self._bar.disable or now - self._printed < self.seconds:
            return
        self._printed = now
        rate = self.done / (now - self._begin)
        left = tqdm.format_interval((self.total - self.done) / max(rate, 1e-9))
        print(f"{self.done:,}/{self.total:,} images, {rate:,.0f} images/s, {left} left", flush=True)
