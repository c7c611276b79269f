"""bksdm prepare."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from bksdm.cli.config import differing_keys, plain
from bksdm.data.index import build_index
from bksdm.data.shapes import samples
from bksdm.data.shards import write_shard
from bksdm.errors import InputError

MANIFEST = "prepare.json"


def run(config: DictConfig) -> int:
    """Write the shards that are not there yet."""
    if config.source != "shapes":
        raise InputError(f"source={config.source}: expected shapes")
    for name in ("train_samples", "validation_samples", "samples_per_shard"):
        if not isinstance(config[name], int) or config[name] < 1:
            raise InputError(f"{name}={config[name]}: expected a number, at least 1")
    folder = Path(config.folder)
    _claim(folder, plain(config))
    for split, count, seed in [
        ("train", config.train_samples, config.seed),
        ("validation", config.validation_samples, config.seed + 1),
    ]:
        _write_split(folder, split, count=count, seed=seed, per_shard=config.samples_per_shard)
        index = build_index(str(folder / f"{split}-*.tar"))
        print(
            f"{split}: {sum(index.counts)} samples in {len(index.shards)} shards of {folder}, "
            f"index {index.fingerprint}"
        )
    return 0


def _claim(folder: Path, values: dict[str, Any]) -> None:
    """Remember the settings of a folder, so that shards of two settings never mix in it."""
    manifest = folder / MANIFEST
    if manifest.exists():
        old = json.loads(manifest.read_text())
        keys = differing_keys(old, values, free=frozenset({"folder"}))
        if keys:
            was = ", ".join(f"{key} was {old.get(key)}" for key in keys)
            raise InputError(
                f"{folder} holds shards of other settings ({was}); "
                "use another folder=, or remove it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps(values, indent=1))


def _write_split(folder: Path, split: str, *, count: int, seed: int, per_shard: int) -> None:
    stream = enumerate(samples(count, seed=seed))
    starts = tqdm(range(0, count, per_shard), desc=split, unit="shard", disable=None)
    for shard, start in enumerate(starts):
        chunk = islice(stream, min(per_shard, count - start))
        path = folder / f"{split}-{shard:05d}.tar"
        rows = ((f"{split}{i:08d}", image, scene.caption) for i, (scene, image) in chunk)
        if path.exists():
            list(rows)  # drawn but not written again
        else:
            write_shard(path, rows)
