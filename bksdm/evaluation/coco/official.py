"""COCO captions: the official parts, and what an annotation file says.

Reads annotations, never pictures. Knows nothing of which captions are taken.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from bksdm.data.decode import BadSampleError
from bksdm.data.listing import safe_name, usable_caption
from bksdm.errors import InputError


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
    """One caption: its annotation id, its picture's id, and the text on one line; "" where the
    file has none that can be used.
    """

    id: int
    image: int
    text: str


@dataclass(frozen=True)
class Captions:
    """What an annotation file says.

    Attributes:
        files: file name of each picture by its id, in the file's order.
        every: caption in the file's order, with empty ones.
    """

    files: Mapping[int, str]
    every: tuple[Caption, ...]

    @cached_property
    def captions(self) -> tuple[Caption, ...]:
        """In the file's order, without empty ones."""
        return tuple(each for each in self.every if each.text)

    @property
    def listed(self) -> int:
        """How many there are, with empty ones."""
        return len(self.every)

    @cached_property
    def first_listed(self) -> list[Caption]:
        """Of each picture the caption that the file has first, which may be empty, in the order of
        these captions.
        """
        first: dict[int, Caption] = {}
        for caption in self.every:
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
        return Captions(files, tuple(each for each in self.every if each.image in files))


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
        every = tuple(_caption(row, files) for row in rows)
        if len(files) != len(values["images"]) or len(set(files.values())) != len(files):
            raise ValueError("a picture is listed twice")
        if len({row["id"] for row in rows}) != len(rows):
            raise ValueError("an annotation id is there twice")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{origin} is no COCO captions file ({type(error).__name__}: {error}); expected images"
            " with id and file_name, annotations with image_id, id and caption"
        ) from error
    return Captions(files, every)


def _caption(row: Mapping[str, Any], files: Mapping[int, str]) -> Caption:
    if row["image_id"] not in files:
        raise ValueError(f"annotation {row['id']} is of picture {row['image_id']}, not listed")
    try:
        # On one line: tokenizers take all white space for one space, and files of lines stay whole.
        text = " ".join(usable_caption(row["caption"]).split())
    except BadSampleError:
        text = ""
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
