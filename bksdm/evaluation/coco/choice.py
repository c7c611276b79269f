"""Which captions of COCO are a protocol's prompts, and in which order: drawn, or a published list.

Knows nothing of pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from bksdm import expected
from bksdm.errors import InputError
from bksdm.evaluation.coco.official import Caption, Captions
from bksdm.evaluation.prompt_files import table_rows

# Share of a published list's texts that may be no caption of their picture, word for word. More is
# another list than the one that was meant.
MOST_UNKNOWN: Final = 0.01


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
    over the first listed caption of each picture, with empty ones: leaving them out would shift all
    that is drawn. NumPy has frozen these numbers (NEP 19).
    """

    seed: int

    def __post_init__(self) -> None:
        expected.count("reference.choice.seed", self.seed, least=0)

    def choose(self, captions: Captions, count: int) -> list[Chosen]:
        """In the order in which they are drawn.

        Raises:
            InputError: a caption that is drawn is empty.
        """
        found = captions.first_listed
        legacy = np.random.RandomState(self.seed)
        drawn = legacy.choice(len(found), min(count, len(found)), replace=False)
        chosen = [found[i] for i in drawn]
        empty = [each for each in chosen if not each.text]
        if empty:
            raise InputError(
                f"reference.choice.seed={self.seed} draws {len(empty):,} first listed captions that"
                f" are empty, such as annotation {empty[0].id} of {captions.files[empty[0].image]};"
                " expected prompts with a text: choose another seed, or a choice that passes over"
                " empty captions, such as LowestId"
            )
        return _chosen(captions, chosen)

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
                f" of their picture, such as {unknown[0].text[:40]!r} of {unknown[0].file};"
                " expected captions of source.annotations"
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
