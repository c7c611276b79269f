"""Which sample goes into which shard, and what of it: drawn scenes, or pictures of a listing."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bksdm.data.decode import BadSampleError, decode_caption
from bksdm.data.listing import Listed, Listing, held_back, shuffled
from bksdm.data.making import Members, PlannedShard
from bksdm.data.pictures import png, stored_picture
from bksdm.data.record import Rejected
from bksdm.data.shapes import samples
from bksdm.errors import InputError

SPLITS: Final = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class ShapesSource:
    """The embedded world: as many samples as are wanted."""

    name: str
    train_samples: int

    def __post_init__(self) -> None:
        _check_counts("source.", train_samples=self.train_samples)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How samples become splits and shards."""

    samples_per_shard: int
    validation_samples: int
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"seed={self.seed}: expected a number, at least 0")
        _check_counts(
            validation_samples=self.validation_samples, samples_per_shard=self.samples_per_shard
        )


@dataclass(frozen=True)
class Drawings:
    """Scenes of the embedded world."""

    start: int
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Members | Rejected]:
        for scene, image in samples(self.count, seed=self.seed, start=self.start):
            yield {"png": png(image), "txt": scene.caption.encode()}


@dataclass(frozen=True)
class PictureFiles:
    """Pictures and captions of a listing."""

    root: Path
    listed: tuple[Listed, ...]
    short_side: int | None

    def __len__(self) -> int:
        return len(self.listed)

    def __iter__(self) -> Iterator[Members | Rejected]:
        for sample in self.listed:
            try:
                yield self._members(sample)
            except BadSampleError as error:
                yield Rejected(sample.file, error.reason, error.detail)
            except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
                yield Rejected(sample.file, "cannot be read", error.strerror or "")

    def _members(self, sample: Listed) -> Members:
        caption = sample.caption
        if caption is None:
            caption = decode_caption((self.root / (sample.caption_file or "")).read_bytes())
        if not caption:
            raise BadSampleError("empty caption")
        picture = stored_picture((self.root / sample.file).read_bytes(), short_side=self.short_side)
        facts = {"file": sample.file, "width": picture.width, "height": picture.height}
        return {
            picture.suffix: picture.data,
            "txt": caption.encode(),
            "json": json.dumps(facts).encode(),
        }


def drawn_shards(source: ShapesSource, cut: Cut, *, folder: Path) -> list[PlannedShard]:
    """The embedded world's; validation pictures have the next seed."""
    plan = [(source.train_samples, cut.seed), (cut.validation_samples, cut.seed + 1)]
    return [
        PlannedShard(folder, split, number, start, Drawings(start, size, seed))
        for split, (count, seed) in zip(SPLITS, plan, strict=True)
        for number, start, size in _pieces(count, cut.samples_per_shard)
    ]


def picture_shards(
    listing: Listing, cut: Cut, *, folder: Path, short_side: int | None
) -> list[PlannedShard]:
    """A listing's, shuffled, with some pictures held back for validation.

    Raises:
        InputError: too few pictures for two splits.
    """
    chosen = held_back(listing.samples, count=cut.validation_samples, seed=cut.seed)
    mixed = shuffled(listing.samples, seed=cut.seed)
    parts = [
        [sample for sample in mixed if (sample.file in chosen) == held] for held in (False, True)
    ]
    if not all(parts):
        raise InputError(
            f"{listing.root}: {len(chosen)} picture with a caption; expected at least two, one for"
            " training and one for validation"
        )
    return [
        PlannedShard(
            folder,
            split,
            number,
            start,
            PictureFiles(listing.root, tuple(part[start : start + size]), short_side),
        )
        for split, part in zip(SPLITS, parts, strict=True)
        for number, start, size in _pieces(len(part), cut.samples_per_shard)
    ]


def _pieces(count: int, size: int) -> Iterator[tuple[int, int, int]]:
    for number, start in enumerate(range(0, count, size)):
        yield number, start, min(size, count - start)


def _check_counts(prefix: str = "", **counts: object) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"{prefix}{name}={count}: expected a number, at least 1")
