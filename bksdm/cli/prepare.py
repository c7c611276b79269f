"""bksdm prepare."""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from omegaconf import DictConfig

from bksdm.cli.claim import claim
from bksdm.cli.config import built, folder, plain
from bksdm.cli.prepare_reference import OF_REFERENCES, prepare_reference
from bksdm.cli.progress import Progress
from bksdm.data.cutting import SPLITS, Cut, ShapesSource, drawn_shards, picture_shards
from bksdm.data.index import build_index
from bksdm.data.listing import CocoSource, FolderSource, Listing
from bksdm.data.making import PlannedShard, make_shards
from bksdm.data.record import Record, Rejected, write_text
from bksdm.errors import InputError

REJECTED: Final = "rejected.csv"
MAX_WORKERS: Final = 8


def run(config: DictConfig) -> int:
    """Write the shards that are not there yet; or, with `reference=`, a protocol's references."""
    if "_target_" in config.reference:
        return prepare_reference(config, workers=_workers(config.workers))
    if config.reference_prompts is not None or config.allow_partial:
        raise InputError(
            "reference_prompts= and allow_partial= are of a protocol's references; expected"
            " reference=, too"
        )
    # Of references alone; and shards that were begun before there were any go on.
    values = {name: value for name, value in plain(config).items() if name not in OF_REFERENCES}
    source = built(config.source, object)
    shared = {name: values[name] for name in ("samples_per_shard", "validation_samples", "seed")}
    out = folder(config, "out")
    cut, workers = Cut(**shared), _workers(config.workers)
    listing: Listing | None = None
    if isinstance(source, ShapesSource):
        shards = drawn_shards(source, cut, folder=out)
    else:
        assert isinstance(source, FolderSource | CocoSource)
        listing = source.listing()
        print(f"{len(listing.samples):,} samples in {listing.root}, captions: {listing.origin}")
        shards = picture_shards(listing, cut, folder=out, short_side=source.short_side)
    claim(out, values, listing)
    missing = sum(len(shard.contents) for shard in shards if not shard.record)
    with Progress(missing, what="prepare") as progress:
        results = make_shards(shards, workers=workers, report=progress.advance)
    if listing is not None:
        _tell_rejected(out, [*listing.rejected, *(r for s in results for r in s.rejected)])
    _check_splits(out, shards, results)
    for split in SPLITS:
        index = build_index(str(out / f"{split}-*.tar"))
        print(
            f"{split}: {sum(index.counts)} samples in {len(index.shards)} shards of {out}, "
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


def _check_splits(folder: Path, shards: Sequence[PlannedShard], results: Sequence[Record]) -> None:
    kept = Counter(dict.fromkeys(SPLITS, 0))
    for shard, record in zip(shards, results, strict=True):
        kept[shard.split] += record.count
    empty = [split for split in SPLITS if not kept[split]]
    if empty:
        raise InputError(
            f"{folder}: no usable sample for {' and '.join(empty)}; see {REJECTED} in it, then"
            " remove it" + ("" if len(empty) > 1 else " and run it with another seed=")
        )
