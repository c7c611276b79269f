"""COCO captions: the official parts, what an annotation file says, and which captions a protocol
takes.

Reads annotations, never pictures.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from bksdm import expected
from bksdm.data.decode import BadSampleError
from bksdm.data.listing import safe_name, usable_caption
from bksdm.errors import InputError
from bksdm.evaluation.prompt_files import table_rows

# Of the reference implementation's list: texts that are no caption of their image. More is another
# list than the one that was meant.
MOST_UNKNOWN: Final = 0.01


@dataclass(frozen=True)
class Part:
    """An official part of COCO, as cocodataset.org has it.

    Attributes:
        images: number of pictures, each of which has captions.
        captions: of all pictures together. Checked against each other: 2014 and 2017 cut the same
            captions differently, 414,113 + 202,654 = 591,753 + 25,014.
        annotations_member: the captions file in the zip of annotations.
        md5: of the official zips, by name.
    """

    name: str
    images: int
    captions: int
    annotations_member: str
    md5: Mapping[str, str]


_MD5_2017: Final = {"annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c"}
PARTS: Final = {
    part.name: part
    for part in (
        Part(
            "val2014",
            40_504,
            202_654,
            "annotations/captions_val2014.json",
            {
                "val2014.zip": "a3d79f5ed8d289b7a7554ce06a5782b3",
                "annotations_trainval2014.zip": "0a379cfc70b0e71301e0f377548639bd",
            },
        ),
        Part(
            "train2017",
            118_287,
            591_753,
            "annotations/captions_train2017.json",
            {"train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2", **_MD5_2017},
        ),
        Part(
            "val2017",
            5_000,
            25_014,
            "annotations/captions_val2017.json",
            {"val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80", **_MD5_2017},
        ),
    )
}


@dataclass(frozen=True)
class Caption:
    """One caption: its annotation id, its picture's id, and the text on one line."""

    id: int
    image: int
    text: str


@dataclass(frozen=True)
class Captions:
    """What an annotation file says.

    Attributes:
        files: file name of each picture by its id, in the file's order.
        captions: in the file's order, without empty ones.
        listed: how many the file has, with empty ones.
    """

    files: Mapping[int, str]
    captions: tuple[Caption, ...]
    listed: int

    @cached_property
    def first_listed(self) -> list[Caption]:
        """Of each picture the caption that the file has first, in the order of these captions."""
        first: dict[int, Caption] = {}
        for caption in self.captions:
            first.setdefault(caption.image, caption)
        return list(first.values())

    @cached_property
    def lowest_id(self) -> list[Caption]:
        """Of each picture the caption with the lowest id, in the order of the pictures' ids."""
        lowest: dict[int, Caption] = {}
        for caption in sorted(self.captions, key=lambda caption: caption.id):
            lowest.setdefault(caption.image, caption)
        return [lowest[image] for image in sorted(lowest)]

    def of_pictures(self, names: frozenset[str]) -> "Captions":
        """The same without pictures of other names, and without their captions."""
        files = {image: name for image, name in self.files.items() if name in names}
        captions = tuple(each for each in self.captions if each.image in files)
        return Captions(files, captions, len(captions))


@dataclass(frozen=True)
class Chosen:
    """A prompt and the picture that it describes; the picture's name without suffix is its id."""

    text: str
    file: str

    @property
    def id(self) -> str:
        """The name that pictures made of it have, as in the reference implementation."""
        return Path(self.file).stem


class Choice(Protocol):
    """Which captions a protocol takes: a frozen dataclass of settings."""

    def choose(self, captions: Captions, count: int) -> list[Chosen]:
        """At most `count`, one a picture, in the order of their seeds."""

    @property
    def words(self) -> str:
        """The rule, for people."""


@dataclass(frozen=True, kw_only=True)
class LowestId:
    """Pictures drawn at random, of each the caption with the lowest id."""

    seed: int

    def __post_init__(self) -> None:
        expected.count("reference.choice.seed", self.seed, least=0)

    def choose(self, captions: Captions, count: int) -> list[Chosen]:
        """In the order in which they are drawn, so that a beginning is a random sample, too."""
        found = captions.lowest_id
        drawn = np.random.default_rng(self.seed).permutation(len(found))[:count]
        return _chosen(captions, [found[i] for i in drawn])

    @property
    def words(self) -> str:
        """The rule."""
        return (
            f"pictures drawn with numpy default_rng({self.seed}).permutation over their ids in"
            " order, of each the caption with the lowest id"
        )


@dataclass(frozen=True, kw_only=True)
class FirstListed:
    """The pruning paper's draw: `np.random.seed(seed)`, then `np.random.choice` without replacement
    over the first listed caption of each picture. NumPy has frozen these numbers (NEP 19).
    """

    seed: int

    def __post_init__(self) -> None:
        expected.count("reference.choice.seed", self.seed, least=0)

    def choose(self, captions: Captions, count: int) -> list[Chosen]:
        """In the order in which they are drawn."""
        found = captions.first_listed
        legacy = np.random.RandomState(self.seed)
        drawn = legacy.choice(len(found), min(count, len(found)), replace=False)
        return _chosen(captions, [found[i] for i in drawn])

    @property
    def words(self) -> str:
        """The rule."""
        return (
            f"numpy RandomState({self.seed}).choice without replacement over the first listed"
            " caption of each picture, in the annotation file's order"
        )


@dataclass(frozen=True)
class Published:
    """A fixed list of prompts: a file with the columns file_name and text."""

    path: Path

    def choose(self, captions: Captions, count: int) -> list[Chosen]:
        """In the list's order.

        Raises:
            InputError: not `count` prompts, a picture that is not in the annotations or twice, or
                texts that are not its captions.
        """
        rows = table_rows(self.path, columns=("file_name", "text"))
        if len(rows) != count:
            raise InputError(
                f"reference_prompts={self.path} holds {len(rows):,} prompts; expected {count:,}"
            )
        known = set(captions.files.values())
        chosen: dict[str, Chosen] = {}
        for row in rows:
            file, text = str(row["file_name"]), " ".join(str(row["text"]).split())
            if file not in known or file in chosen or not text:
                fault = "twice" if file in chosen else "without a text" if file in known else ""
                raise InputError(
                    f"reference_prompts={self.path} names {file}"
                    f" {fault or 'which source.annotations does not list'}; expected each picture"
                    " once, of the same part of COCO, with a text"
                )
            chosen[file] = Chosen(text, file)
        unknown = self.unknown(captions, list(chosen.values()))
        if len(unknown) > MOST_UNKNOWN * count:
            raise InputError(
                f"reference_prompts={self.path}: {len(unknown):,} of {count:,} texts are no caption"
                f" of their picture, such as {unknown[0].text[:40]!r} of {unknown[0].file}; expected"
                " captions of source.annotations"
            )
        return list(chosen.values())

    @staticmethod
    def unknown(captions: Captions, chosen: Sequence[Chosen]) -> list[Chosen]:
        """Those whose text is no caption of their picture."""
        there = {(captions.files[each.image], each.text) for each in captions.captions}
        return [each for each in chosen if (each.file, each.text) not in there]

    @property
    def words(self) -> str:
        """Where they come from."""
        return f"the list {self.path.name}"


def _chosen(captions: Captions, found: Sequence[Caption]) -> list[Chosen]:
    return [Chosen(each.text, captions.files[each.image]) for each in found]


def read_captions(content: bytes, *, origin: str) -> Captions:
    """What the bytes of a captions file say.

    Args:
        content: JSON in COCO's format.
        origin: how errors name it.

    Raises:
        InputError: no such file, or one that contradicts itself.
    """
    try:
        values = json.loads(content)
        files = {int(image["id"]): safe_name(image["file_name"]) for image in values["images"]}
        rows = values["annotations"]
        found = [_caption(row, files) for row in rows]
        if len(files) != len(values["images"]) or len(set(files.values())) != len(files):
            raise ValueError("a picture is listed twice")
        if len({row["id"] for row in rows}) != len(rows):
            raise ValueError("an annotation id is there twice")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{origin} is no COCO captions file ({type(error).__name__}: {error}); expected images"
            " with id and file_name, annotations with image_id, id and caption"
        ) from error
    return Captions(files, tuple(each for each in found if each is not None), len(rows))


def _caption(row: Mapping[str, Any], files: Mapping[int, str]) -> Caption | None:
    if row["image_id"] not in files:
        raise ValueError(f"annotation {row['id']} is of picture {row['image_id']}, not listed")
    try:
        # On one line: tokenizers take all white space for one space, and files of lines stay whole.
        text = " ".join(usable_caption(row["caption"]).split())
    except BadSampleError:
        return None
    return Caption(int(row["id"]), int(row["image_id"]), text)


def check_complete(captions: Captions, part: Part, *, origin: str) -> None:
    """Refuse annotations that are not all of an official part.

    Raises:
        InputError: names the counts.
    """
    there = (len(captions.files), captions.listed)
    if there != (part.images, part.captions):
        raise InputError(
            f"source.annotations={origin} lists {there[0]:,} pictures and {there[1]:,} captions;"
            f" {part.name} has {part.images:,} and {part.captions:,}. Give the official file, or"
            " set allow_partial=true for a trial"
        )
