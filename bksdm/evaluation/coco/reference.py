"""What a protocol needs of COCO: its prompts, and the photographs that pictures are compared with,
from the user's copy of the official files.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bksdm import expected
from bksdm.errors import InputError
from bksdm.evaluation.coco.choice import Choice, Chosen
from bksdm.evaluation.coco.official import PARTS, Captions, Part, check_complete, read_captions
from bksdm.evaluation.coco.photographs import Photographs, photographs, read_member
from bksdm.evaluation.coco.reference_pass import reference_files
from bksdm.evaluation.measures.on_features import OnFeatures
from bksdm.evaluation.prompt_files import usable_rows
from bksdm.evaluation.prompts import CocoPrompts
from bksdm.evaluation.protocol import Protocol

PICTURES: Final = ("all", "chosen")


@dataclass(frozen=True, kw_only=True)
class CocoReference:
    """How a protocol's prompts and references are made of COCO.

    Attributes:
        part: val2014, train2017 or val2017.
        choice: which captions are prompts.
        pictures: "all" compares with all photographs of the part, "chosen" with those whose
            captions are prompts.
        folder: where prompts and references go.
        protocol: whose they are; it says how many prompts, how pictures are kept, which networks.
        published: the fixed list of prompts that published scores used, in words; None where
            `choice` is how they were drawn, or nothing is known.
    """

    part: str
    choice: Choice
    pictures: str
    folder: str
    protocol: Protocol
    published: str | None = None

    def __post_init__(self) -> None:
        expected.one_of("reference.part", self.part, tuple(PARTS))
        expected.one_of("reference.pictures", self.pictures, PICTURES)
        if self.protocol.keeping.size is None:
            raise InputError(
                f"protocol {self.protocol.name}: keeping.size=null; photographs of COCO differ in"
                " size, expected pixels"
            )

    @property
    def count(self) -> int:
        """How many prompts.

        Raises:
            InputError: the protocol's prompts are not of COCO.
        """
        prompts = self.protocol.prompts
        if not isinstance(prompts, CocoPrompts):
            raise InputError(
                f"protocol {self.protocol.name}: its prompts are {type(prompts).__name__}; expected"
                " CocoPrompts"
            )
        return prompts.count

    @property
    def measures(self) -> list[OnFeatures]:
        """Those that compare with photographs."""
        return [
            measure
            for measure in self.protocol.wanted
            if isinstance(measure, OnFeatures) and reference_files(measure)
        ]


@dataclass(frozen=True)
class CocoCopy:
    """The user's copy of a part: captions, and photographs.

    Attributes:
        sha256: of the captions file.
    """

    captions: Captions
    photographs: Photographs
    sha256: str


def read_copy(annotations: Path, images: Path, part: Part, *, allow_partial: bool) -> CocoCopy:
    """The copy, as it is on disk; its photographs are looked for, and not read.

    Args:
        annotations: the captions file, or the official zip of annotations.
        images: the folder that has the photographs, or their official zip.
        part: what it is a copy of.
        allow_partial: whether to take what is there, for trial.

    Raises:
        InputError: not such files; or, unless partial, not all of the part.
    """
    content = _annotations(annotations, part)
    captions = read_captions(content, origin=f"source.annotations={annotations}")
    source = photographs(images, setting="source.images")
    there = source.names()
    if allow_partial:
        captions = captions.of_pictures(there)
        if not captions.captions:
            raise InputError(
                f"source.images={images}: no picture that source.annotations={annotations} names"
                " is there"
            )
    else:
        check_complete(captions, part, origin=str(annotations))
        check_there(captions.files.values(), there, images)
    return CocoCopy(captions, source, hashlib.sha256(content).hexdigest())


def check_there(names: Iterable[str], there: frozenset[str], images: Path) -> None:
    """Refuse a copy that lacks photographs.

    Raises:
        InputError: names the first.
    """
    missing = sorted(set(names) - there)
    if missing:
        raise InputError(
            f"source.images={images}: {len(missing):,} pictures are missing, the first is"
            f" {missing[0]}; fetch the official zip again, or set allow_partial=true for a trial"
        )


def check_zip(path: Path, part: Part, *, allow_other: bool) -> str:
    """The MD5 of an official zip.

    Raises:
        InputError: it is another one, and that is not allowed.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if not allow_other and found not in part.md5.values():
        official = ", ".join(f"{name} {md5}" for name, md5 in part.md5.items())
        raise InputError(
            f"{path} has MD5 {found}, expected one of {official}; fetch it again, or set"
            " allow_partial=true for a trial"
        )
    return found


def choose(choice: Choice, copy: CocoCopy, count: int, *, allow_partial: bool) -> list[Chosen]:
    """The prompts, whose pictures are there.

    Raises:
        InputError: fewer than `count` unless partial, or a picture's name is no prompt's id.
    """
    chosen = choice.choose(copy.captions, count)
    if len(chosen) < count and not allow_partial:
        raise InputError(
            f"protocol.prompts.count={count:,}: only {len(chosen):,} pictures have captions"
        )
    usable_rows(((each.id, each.text) for each in chosen), origin="source.annotations")
    return chosen


def reference_names(copy: CocoCopy, chosen: Sequence[Chosen], *, pictures: str) -> list[str]:
    """The photographs to compare with, in the order of their names."""
    names = copy.captions.files.values() if pictures == "all" else (each.file for each in chosen)
    return sorted(names)


def _annotations(path: Path, part: Part) -> bytes:
    if path.is_file():
        if path.suffix.lower() == ".zip":
            return read_member(path, part.annotations_member)
        return path.read_bytes()
    raise InputError(
        f"source.annotations={path}: no such file; expected {Path(part.annotations_member).name} or"
        " the official zip that has it"
    )
