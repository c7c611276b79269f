"""Prompts of the protocols."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bksdm import expected
from bksdm.data.shapes import sample_scene
from bksdm.errors import InputError
from bksdm.evaluation.coco.provenance import check_prompts
from bksdm.evaluation.prompt_files import read_prompt_rows


@dataclass(frozen=True)
class Prompt:
    """A prompt and the seed of its image: the image depends on nothing else."""

    id: str
    text: str
    seed: int


class PromptSource(Protocol):
    """Where a protocol's prompts come from: a frozen dataclass of settings."""

    def read(self) -> list[Prompt]:
        """All of them.

        Raises:
            InputError: they are not there, or not what was expected.
        """


@dataclass(frozen=True, kw_only=True)
class ShapesPrompts:
    """Captions of the embedded world.

    Attributes:
        count: of the training grammar.
        held_out: with a (shape, colour) pair that no training picture has.
        seed: of prompts and images.
    """

    count: int
    held_out: int
    seed: int

    def __post_init__(self) -> None:
        expected.count("prompts.count", self.count, least=0)
        expected.count("prompts.held_out", self.held_out, least=0 if self.count else 1)
        expected.count("prompts.seed", self.seed, least=0)

    def read(self) -> list[Prompt]:
        """The prompts, those held out last."""
        unseen = shapes_prompts(self.held_out, seed=self.seed, held_out=True)
        return [
            *shapes_prompts(self.count, seed=self.seed),
            *(Prompt(f"held-out-{prompt.id}", prompt.text, prompt.seed) for prompt in unseen),
        ]


@dataclass(frozen=True, kw_only=True)
class FilePrompts:
    """Prompts of yours.

    Attributes:
        path: .txt with one a line, or .csv or .jsonl with the columns id and text; an id names the
            picture's file.
        seed: of the first picture; the next one has the next.
        count: so many from the beginning; None takes all.
    """

    path: str
    seed: int
    count: int | None = None

    def __post_init__(self) -> None:
        expected.count("prompts.seed", self.seed, least=0)
        if self.count is not None:
            expected.count("prompts.count", self.count, least=1)

    def read(self) -> list[Prompt]:
        """The prompts, in the file's order.

        Raises:
            InputError: not there, not such a file, or fewer than `count`.
        """
        rows = read_prompt_rows(Path(self.path).expanduser())
        if self.count is not None and len(rows) < self.count:
            raise InputError(
                f"prompts.count={self.count:,}: {self.path} holds {len(rows):,}; expected at most"
                " that many"
            )
        return numbered(rows[: self.count], seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class CocoPrompts:
    """Captions of COCO that `bksdm prepare source=coco reference=...` has chosen.

    Attributes:
        path: the prompts.csv that it wrote, with provenance.json beside it.
        count: how many there must be.
        seed: of the first picture; the next one has the next.
        sha256: that the file must have; None takes the one in provenance.json.
        allow_partial: whether a set that was made with allow_partial=true will do. Scores of it
            are no scores of the protocol, and say so by this setting.
    """

    path: str
    count: int
    seed: int
    sha256: str | None = None
    allow_partial: bool = False

    def __post_init__(self) -> None:
        expected.count("prompts.count", self.count, least=1)
        expected.count("prompts.seed", self.seed, least=0)
        expected.switch("prompts.allow_partial", self.allow_partial)

    def read(self) -> list[Prompt]:
        """The prompts, in the file's order.

        Raises:
            InputError: `bksdm prepare` has not made them, not finished, or made others.
        """
        path = Path(self.path).expanduser()
        partial = check_prompts(path, sha256=self.sha256)
        if partial and not self.allow_partial:
            raise InputError(
                f"{path} is of a partial set, for trial only; make the whole one, or set"
                " protocol.prompts.allow_partial=true (its scores are not the protocol's)"
            )
        rows = read_prompt_rows(path)
        if len(rows) != self.count and not partial:
            raise InputError(
                f"{path} holds {len(rows):,} prompts, expected {self.count:,}; remove its folder"
                " and make it again"
            )
        return numbered(rows[: self.count], seed=self.seed)


def numbered(rows: Iterable[tuple[str, str]], *, seed: int) -> list[Prompt]:
    """Prompts of (id, text) with consecutive seeds."""
    return [Prompt(name, text, seed + i) for i, (name, text) in enumerate(rows)]


def from_texts(texts: list[str], *, seed: int) -> list[Prompt]:
    """Prompts with consecutive seeds."""
    return numbered(((f"{i:06d}", text) for i, text in enumerate(texts)), seed=seed)


def shapes_prompts(count: int, *, seed: int, held_out: bool = False) -> list[Prompt]:
    """Captions of random scenes of the embedded world."""
    scenes = [
        sample_scene(np.random.default_rng((seed, i)), held_out=held_out) for i in range(count)
    ]
    return from_texts([scene.caption for scene in scenes], seed=seed)
