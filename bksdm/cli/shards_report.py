"""What the shards of a run hold: looked into, put into tables, and what is wrong with them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import has_magic
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, OmegaConf

from bksdm.cli.progress import Progress
from bksdm.data.checking import check_shards
from bksdm.data.filesystems import filesystem, is_web, protocol
from bksdm.data.findings import Summary, summary
from bksdm.data.index import ShardIndex, build_index
from bksdm.data.location import expand, is_remote
from bksdm.data.record import format_of
from bksdm.data.store import ShardStore
from bksdm.data.stream import first_meta
from bksdm.errors import InputError
from bksdm.evaluation.report import table

MAX_WORKERS: Final = 8
Depth = Literal["full", "index", "none"]
_NONE: Final = np.empty(0, dtype=np.int64)
DEPTHS: Final = get_args(Depth)
SPLITS: Final = {"training": "shards", "validation": "validation_shards"}


@dataclass
class Split:
    """One split, as far as it was looked into.

    Attributes:
        locations: of its shards.
        summary: of every sample; with depth "full" alone.
        index: left beside the shards; not with depth "none", nor with a broken shard.
        pictures: hashes of all pictures, with depth "full".
    """

    locations: list[str]
    summary: Summary | None = None
    index: ShardIndex | None = None
    pictures: npt.NDArray[np.int64] = field(default_factory=lambda: _NONE)

    @property
    def format(self) -> str | None:
        """What latent shards say of themselves; empty for pictures, None if only reading a remote
        shard could tell.

        Raises:
            InputError: the first shard cannot be read.
        """
        if self.index:
            return self.index.format
        first = self.locations[0]
        return None if is_remote(first) else format_of(first_meta(first))


def locations_of(
    config: DictConfig, split: str, store: ShardStore, *, ask: bool = True
) -> list[str]:
    """Where the shards of a split are; unless `ask`, no store is asked what a remote glob matches.

    Raises:
        InputError: none are named, or they are not there.
    """
    name = SPLITS[split]
    if OmegaConf.is_missing(config.data, name):
        raise InputError(f"data.{name}= is missing; give it a value")
    value = config.data[name]
    patterns = [value] if isinstance(value, str) else list(value)
    left = [each for each in patterns if not ask and _to_be_listed(each)]
    for each in left:
        filesystem(each)  # its package is here
    others = [each for each in patterns if each not in left]
    found = expand(others, allow_pipe=store.settings.allow_pipe) if others or not left else []
    return [*left, *found]


def none_here(config: DictConfig, split: str) -> bool:
    """Whether no shard of a split is named, or one on this machine's disk."""
    name = SPLITS[split]
    if OmegaConf.is_missing(config.data, name):
        return True
    value = config.data[name]
    return not any(is_remote(str(each)) for each in ([value] if isinstance(value, str) else value))


def _to_be_listed(pattern: Any) -> bool:
    return (
        isinstance(pattern, str)
        and protocol(pattern) not in ("", "pipe")
        and not is_web(pattern)
        and has_magic(pattern)
    )


def look(
    split: str,
    locations: list[str],
    tokenizer: Any,
    *,
    store: ShardStore,
    depth: Depth,
    resolution: int,
    workers: int | None,
    quiet: bool,
) -> Split:
    """Look into the shards of a split: at every sample, at their tables of contents, or not at all.

    Raises:
        InputError: with depth "index", a shard that cannot be read.
    """
    if depth == "none":
        return Split(locations)
    if depth == "index":
        return Split(locations, index=build_index(locations, store=store))
    with Progress(len(locations), what=split, unit="shard", shown=not quiet) as progress:
        findings = check_shards(
            locations,
            tokenizer,
            store=store,
            workers=workers or min(os.cpu_count() or 1, MAX_WORKERS),
            on_shards=progress.advance,
        )
    whole = not any(each.broken for each in findings)
    return Split(
        locations,
        summary=summary(findings, longest=tokenizer.model_max_length, resolution=resolution),
        index=build_index(locations, store=store) if whole else None,
        pictures=np.concatenate([each.pictures for each in findings]),
    )


def shard_problems(found: dict[str, Split], *, limit: float) -> Iterator[str]:
    """What would stop a run over these shards."""
    for split, each in found.items():
        numbers = each.summary
        if numbers is None:
            continue
        if numbers.broken:
            location, what = next(iter(numbers.broken.items()))
            yield f"{len(numbers.broken)} broken {split} shards, the first is {location}: {what}"
        if numbers.bad_fraction > limit:
            yield (
                f"{100 * numbers.bad_fraction:.3g} % of the {split} samples are bad, more than"
                f" data.max_bad_fraction={limit:g} allows; make the shards again without them, or"
                " raise the limit"
            )


def shard_notes(found: dict[str, Split]) -> Iterator[str]:
    """What the tables do not say loudly enough."""
    for split, each in found.items():
        captions = each.summary.captions if each.summary else {}
        if captions.get("over the limit"):
            yield (
                f"{split}: {captions['over the limit']:,} captions are cut off at"
                f" {captions['limit']} tokens"
            )
        if captions.get("unknown tokens"):
            yield f"{split}: {captions['unknown tokens']:,} captions hold unknown tokens"
    first, second = (found[split].pictures if split in found else _NONE for split in SPLITS)
    shared = len(np.intersect1d(first, second))
    if shared:
        yield f"{shared:,} pictures are in both splits"


def shard_tables(found: dict[str, Split]) -> str:
    """What was found, for people."""
    lines = [
        f"{split}: index {each.index.fingerprint}, {each.index.samples:,} samples in"
        f" {len(each.locations):,} shards"
        for split, each in found.items()
        if each.index
    ]
    summaries = {split: each.summary for split, each in found.items() if each.summary}
    return "\n\n".join(
        [*([_tables(summaries)] if summaries else []), *(["\n".join(lines)] * bool(lines))]
    )


def _tables(found: dict[str, Summary]) -> str:
    rows = [
        [
            split, numbers.kind, f"{numbers.shards:,}", f"{numbers.samples:,}", f"{numbers.bad:,}",
            f"{100 * numbers.bad_fraction:.3f}", f"{len(numbers.broken):,}",
        ]
        for split, numbers in found.items()
    ]  # fmt: skip
    header = ["", "holds", "shards", "samples", "bad", "bad, %", "broken shards"]
    parts = [table(rows, header=header)]
    for title, part in (("caption tokens", _captions), ("pixels", _sizes), ("twice", _twice)):
        lines = [[split, *part(numbers)] for split, numbers in found.items()]
        parts.append(table(lines, header=[title, *_HEADERS[title]]))
    bad = [
        [reason, split, f"{told['samples']:,}", told["worst_shard"], told["example"]]
        for split, numbers in found.items()
        for reason, told in numbers.reasons.items()
    ]
    if bad:
        parts.append(table(bad, header=["bad samples", "", "number", "most in", "for example"]))
    broken = [
        f"broken: {location}: {what}"
        for numbers in found.values()
        for location, what in numbers.broken.items()
    ]
    parts += ["\n".join(broken)] * bool(broken)
    return "\n\n".join(parts)


_HEADERS = {
    "caption tokens": ["median", "95 %", "longest", "empty", "limit", "over the limit"],
    "pixels": ["short side: least", "median", "most", "below the resolution", "most common"],
    "twice": ["keys", "pictures"],
}


def _captions(numbers: Summary) -> list[str]:
    names = _HEADERS["caption tokens"]
    return [f"{numbers.captions[name]:,}" if numbers.captions else "-" for name in names]


def _sizes(numbers: Summary) -> list[str]:
    if not numbers.sizes:
        return ["-"] * 5
    least, _, median, _, most = numbers.sizes["short side"]
    size, count = numbers.sizes["most common"][0]
    below = numbers.sizes["below the resolution"]
    return [f"{least:,}", f"{median:,}", f"{most:,}", f"{below:,}", f"{size} ({count:,})"]


def _twice(numbers: Summary) -> list[str]:
    return [f"{numbers.duplicate_keys:,}", f"{numbers.duplicate_pictures:,}"]
