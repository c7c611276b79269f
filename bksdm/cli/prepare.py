"""bksdm prepare."""

from itertools import islice
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from bksdm.data.index import build_index
from bksdm.data.shapes import samples
from bksdm.data.shards import write_shard
from bksdm.errors import InputError


def run(config: DictConfig) -> int:
    """Write the shards that are not there yet."""
    if config.source != "shapes":
        raise InputError(f"source={config.source}: expected shapes")
    if min(config.train_samples, config.validation_samples, config.samples_per_shard) < 1:
        raise InputError(
            "train_samples, validation_samples and samples_per_shard: expected at least 1 each"
        )
    folder = Path(config.folder)
    for split, count, seed in [
        ("train", config.train_samples, config.seed),
        ("validation", config.validation_samples, config.seed + 1),
    ]:
        _write_split(folder, split, count=count, seed=seed, per_shard=config.samples_per_shard)
        index = build_index(str(folder / f"{split}-*.tar"))
        print(
            f"{split}: {sum(index.counts)} samples in {len(index.shards)} shards of {folder}, index"
            f" {index.fingerprint}"
        )
    return 0


def _write_split(folder: Path, split: str, *, count: int, seed: int, per_shard: int) -> None:
    stream = enumerate(samples(count, seed=seed))
    for shard, start in enumerate(
        tqdm(range(0, count, per_shard), desc=split, unit="shard", disable=None)
    ):
        chunk = islice(stream, min(per_shard, count - start))
        path = folder / f"{split}-{shard:05d}.tar"
        rows = ((f"{split}{i:08d}", image, scene.caption) for i, (scene, image) in chunk)
        if path.exists():
            list(rows)  # drawn but not written again
        else:
            write_shard(path, rows)
