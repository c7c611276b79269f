"""Which samples a folder of pictures, a metadata file or a COCO annotation file lists, and which it
lists in vain.

Reads names and captions, never pictures. Knows nothing of shards.
"""

import csv
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from bksdm.data.decode import BadSampleError
from bksdm.data.record import Rejected
from bksdm.errors import InputError

PICTURE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
METADATA_NAMES: Final = ("metadata.jsonl", "metadata.csv")  # Hugging Face's imagefolder


@dataclass(frozen=True, slots=True)
class Listed:
    """A picture by its name below the root, and its caption or the name of the file with it."""

    file: str
    caption: str | None = None
    caption_file: str | None = None

    @property
    def digest(self) -> str:
        """Changes with the names, and with the caption where the list itself holds it."""
        return _digest(self.file, self.caption, self.caption_file)


@dataclass(frozen=True)
class Listing:
    """Samples in the order of their names, wherever they come from.

    Attributes:
        origin: where the captions were found, in words.
    """

    root: Path
    samples: tuple[Listed, ...]
    rejected: tuple[Rejected, ...]
    origin: str


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Pictures below a folder, with captions in a .txt beside each or in one metadata file.

    Attributes:
        short_side: pixels to which a larger picture's shorter side is reduced.
    """

    name: str
    path: str
    metadata: str | None = None
    file_column: str = "file_name"
    caption_column: str = "text"
    short_side: int | None = None

    def __post_init__(self) -> None:
        _check_short_side(self.short_side)

    def listing(self) -> Listing:
        """The samples, as they are on disk now.

        Raises:
            InputError: no pictures, no captions, or a metadata file that is none.
        """
        root = _folder(self.path, setting="source.path")
        found = [root / name for name in METADATA_NAMES if (root / name).is_file()]
        metadata = Path(self.metadata) if self.metadata else next(iter(found), None)
        if metadata is None:
            return self._beside(root)
        rows = metadata_rows(metadata, columns=(self.file_column, self.caption_column))
        return _checked(root, rows, origin=str(metadata), setting="source.path")

    def _beside(self, root: Path) -> Listing:
        names = sorted(files_below(root))
        pictures = [name for name in names if name.lower().endswith(PICTURE_SUFFIXES)]
        captions = {_stem(name): name for name in names if name.lower().endswith(".txt")}
        if not pictures:
            kinds = " ".join(suffix[1:] for suffix in PICTURE_SUFFIXES)
            raise InputError(f"source.path={root}: no pictures ({kinds}) in it or below it")
        if not any(_stem(name) in captions for name in pictures):
            raise InputError(
                f"source.path={root}: {len(pictures):,} pictures and no captions; expected a .txt"
                f" beside each picture, {' or '.join(METADATA_NAMES)} in the folder, or"
                " source.metadata=file.csv"
            )
        return Listing(
            root,
            tuple(
                Listed(name, caption_file=captions[_stem(name)])
                for name in pictures
                if _stem(name) in captions
            ),
            tuple(
                Rejected(name, "no caption", f"no {_stem(name)}.txt")
                for name in pictures
                if _stem(name) not in captions
            ),
            origin="a .txt beside each",
        )


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """Pictures that a COCO captions file names, with the first of their captions or with each."""

    name: str
    annotations: str
    images: str
    captions: str = "first"
    short_side: int | None = None

    def __post_init__(self) -> None:
        _check_short_side(self.short_side)
        if self.captions not in ("first", "each"):
            raise InputError(f"source.captions={self.captions}: expected first or each")

    def listing(self) -> Listing:
        """The samples, as they are on disk now.

        Raises:
            InputError: not a COCO captions file, or its pictures are elsewhere.
        """
        root = _folder(self.images, setting="source.images")
        try:
            rows = list(_coco_rows(_json_file(self.annotations), each=self.captions == "each"))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"source.annotations={self.annotations} is no COCO captions file"
                f" ({type(error).__name__}: {error}); expected images with id and file_name,"
                " annotations with image_id, id and caption"
            ) from error
        return _checked(root, rows, origin=self.annotations, setting="source.images")


def files_below(root: Path) -> Iterator[str]:
    """Names of all files in a folder and below it, without hidden ones; links to folders are not
    followed.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        yield from ((below / name).as_posix() for name in names if not name.startswith("."))


def metadata_rows(path: Path, *, columns: tuple[str, str]) -> list[tuple[Any, Any]]:
    """File and caption of each row of a .csv or .jsonl file, as they are written there.

    Raises:
        InputError: the file is missing, of another kind, broken, or lacks a column.
    """
    readers = {".csv": _csv_rows, ".jsonl": jsonl_rows}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise InputError(f"source.metadata={path}: expected a .csv or .jsonl file")
    rows: list[tuple[Any, Any]] = []
    try:
        # What is no UTF-8 becomes surrogates, and is found again in the one caption that has it.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for row in read(file):
                if not rows:
                    _check_columns(path, row, columns)
                rows.append((row.get(columns[0]), row.get(columns[1])))
    except FileNotFoundError:
        raise InputError(f"source.metadata={path}: no such file") from None
    except (csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is broken after row {len(rows)}: {error}") from error
    return rows


def _csv_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    yield from csv.DictReader(lines)


def jsonl_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file; empty lines are passed over.

    Raises:
        ValueError: a line is something else.
    """
    for line in lines:
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object a line, got {line.strip()[:40]}")
            yield row


def _check_columns(path: Path, row: dict[str, Any], columns: tuple[str, str]) -> None:
    for setting, column in zip(("file_column", "caption_column"), columns, strict=True):
        if column not in row:
            there = ", ".join(map(str, row))
            raise InputError(
                f"{path} has no column {column!r} (it has {there}); name it with source.{setting}="
            )


def _json_file(path: str) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise InputError(f"source.annotations={path}: no such file") from None


def _coco_rows(content: dict[str, Any], *, each: bool) -> Iterator[tuple[Any, Any]]:
    captions: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for row in content["annotations"]:
        captions[row["image_id"]].append((row["id"], row["caption"]))
    for image in content["images"]:
        of_image = sorted(captions[image["id"]])
        for _, caption in of_image if each else of_image[:1]:
            yield image["file_name"], caption
        if not of_image:
            yield image["file_name"], None


def _checked(root: Path, rows: Iterable[tuple[Any, Any]], *, origin: str, setting: str) -> Listing:
    """Rows of a list as samples, in the order of their names; those that cannot be used apart."""
    samples, rejected, there = [], [], False
    for number, (file, caption) in enumerate(rows, start=1):
        name = f"row {number}"
        try:
            name = safe_name(file)
            if not (root / name).is_file():
                raise BadSampleError("missing file")
            there = True
            samples.append(Listed(name, caption=usable_caption(caption)))
        except BadSampleError as error:
            rejected.append(Rejected(name, error.reason, error.detail))
    if not samples and not rejected:
        raise InputError(f"{origin} lists no pictures")
    if not there:
        raise InputError(
            f"{setting}={root}: none of the {len(rejected):,} pictures that {origin} names is there"
        )
    samples.sort(key=lambda sample: (sample.file, sample.caption or ""))
    return Listing(root, tuple(samples), tuple(sorted(rejected)), origin=origin)


def safe_name(name: object) -> str:
    """A name that stays below its root.

    Raises:
        BadSampleError: none, absolute, or upwards.
    """
    if not isinstance(name, str) or not name:
        raise BadSampleError("no file name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise BadSampleError("unsafe name", name.replace("\0", "?"))
    return str(path)


def usable_caption(caption: object) -> str:
    """A caption with something in it.

    Raises:
        BadSampleError: none, empty, or not UTF-8.
    """
    if not isinstance(caption, str):
        raise BadSampleError("no caption", "" if caption is None else f"{type(caption).__name__}")
    if not caption.strip():
        raise BadSampleError("empty caption")
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise BadSampleError("caption is not UTF-8", f"at character {error.start}") from error
    return caption.strip()


def shuffled(samples: Iterable[Listed], *, seed: int) -> list[Listed]:
    """In an order that looks random and depends on each sample and the seed alone."""
    return sorted(samples, key=lambda sample: _digest(seed, sample.digest))


def held_back(samples: Iterable[Listed], *, count: int, seed: int) -> frozenset[str]:
    """Pictures for validation: whole pictures, so that none is in training with another caption;
    about `count` samples, at most a twentieth, at least one picture.
    """
    captions: dict[str, int] = defaultdict(int)
    for sample in samples:
        captions[sample.file] += 1
    most = min(count, sum(captions.values()) // 20)
    chosen: list[str] = []
    taken = 0
    for file in sorted(captions, key=lambda name: _digest(seed, name)):
        taken += captions[file]
        if chosen and taken > most:
            break
        chosen.append(file)
    return frozenset(chosen)


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _folder(path: str, *, setting: str) -> Path:
    if not Path(path).is_dir():
        raise InputError(f"{setting}={path}: no such folder")
    return Path(path)


def _check_short_side(pixels: int | None) -> None:
    if pixels is not None and (not isinstance(pixels, int) or pixels < 1):
        raise InputError(f"source.short_side={pixels}: expected pixels, or null")
