"""bksdm check."""

import json
import os
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, OmegaConf

from bksdm.cli.config import built, optional_number
from bksdm.cli.progress import Progress
from bksdm.data.checking import check_shards
from bksdm.data.findings import Summary, summary
from bksdm.data.index import build_index
from bksdm.data.limits import check_settings
from bksdm.data.location import expand
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.errors import InputError
from bksdm.evaluation.report import table
from bksdm.models.source import TeacherSource, picture_size
from bksdm.models.teacher import load_tokenizer

MAX_WORKERS = 8


def run(config: DictConfig) -> int:
    """Look into every shard, print what was found; exit code 2 if a run would stop."""
    if config.format not in ("text", "json"):
        raise InputError(f"format={config.format}: expected text or json")
    workers = optional_number(config, "workers", least=1)
    resolution = optional_number(config, "data.resolution", least=1)
    limit = config.data.max_bad_fraction
    check_settings(max_bad_fraction=limit)
    source = built(config.teacher, TeacherSource)
    resolution = resolution or picture_size(source)
    tokenizer = load_tokenizer(source)
    store = ShardStore(built(config.data.cache, CacheSettings))
    found: dict[str, Summary] = {}
    pictures: list[npt.NDArray[np.int64]] = []
    indices: list[str] = []
    for split, name in (("training", "shards"), ("validation", "validation_shards")):
        if split == "validation" and OmegaConf.is_missing(config.data, name):
            continue
        locations = expand(plain_shards(config, name), allow_pipe=store.settings.allow_pipe)
        quiet = config.format == "json"
        with Progress(len(locations), what=split, unit="shard", shown=not quiet) as progress:
            findings = check_shards(
                locations,
                tokenizer,
                store=store,
                workers=workers or min(os.cpu_count() or 1, MAX_WORKERS),
                on_shards=progress.advance,
            )
        if not any(each.broken for each in findings):
            index = build_index(locations, store=store)  # left beside the shards, for later
            indices.append(f"{split}: index {index.fingerprint}")
        pictures.append(np.concatenate([each.pictures for each in findings]))
        found[split] = summary(
            findings,
            longest=tokenizer.model_max_length,
            resolution=resolution,
        )
    if config.format == "json":
        print(json.dumps({split: asdict(numbers) for split, numbers in found.items()}, indent=1))
    else:
        shared = len(np.intersect1d(pictures[0], pictures[1])) if len(pictures) > 1 else 0
        print("\n\n".join([tables(found), "\n".join([*notes(found, shared=shared), *indices])]))
    _refuse(found, limit=limit)
    return 0


def plain_shards(config: DictConfig, name: str) -> str | list[str]:
    """The pattern, or the patterns, of a split."""
    value = config.data[name]
    return value if isinstance(value, str) else list(value)


def notes(found: dict[str, Summary], *, shared: int) -> list[str]:
    """What the tables do not say loudly enough."""
    lines = [
        f"{split}: {numbers.captions['over the limit']:,} captions are cut off at"
        f" {numbers.captions['limit']} tokens"
        for split, numbers in found.items()
        if numbers.captions.get("over the limit")
    ]
    return [*lines, *[f"{shared:,} pictures are in both splits"] * bool(shared)]


def tables(found: dict[str, Summary]) -> str:
    """What was found, for people."""
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


def _refuse(found: dict[str, Summary], *, limit: float) -> None:
    for split, numbers in found.items():
        if numbers.broken:
            location, what = next(iter(numbers.broken.items()))
            raise InputError(
                f"{len(numbers.broken)} broken {split} shards, the first is {location}: {what}"
            )
        if numbers.bad_fraction > limit:
            raise InputError(
                f"{100 * numbers.bad_fraction:.3g} % of the {split} samples are bad, more than"
                f" data.max_bad_fraction={limit:g} allows; make the shards again without them, or"
                " raise the limit"
            )
