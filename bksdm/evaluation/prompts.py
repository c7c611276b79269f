"""Prompts of the protocols."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bksdm.data.shapes import sample_scene


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

    def read(self) -> list[Prompt]:
        """The prompts, those held out last."""
        unseen = shapes_prompts(self.held_out, seed=self.seed, held_out=True)
        return [
            *shapes_prompts(self.count, seed=self.seed),
            *(Prompt(f"held-out-{prompt.id}", prompt.text, prompt.seed) for prompt in unseen),
        ]


def from_texts(texts: list[str], *, seed: int) -> list[Prompt]:
    """Prompts with consecutive seeds."""
    return [Prompt(f"{i:06d}", text, seed + i) for i, text in enumerate(texts)]


def shapes_prompts(count: int, *, seed: int, held_out: bool = False) -> list[Prompt]:
    """Captions of random scenes of the embedded world."""
    scenes = [
        sample_scene(np.random.default_rng((seed, i)), held_out=held_out) for i in range(count)
    ]
    return from_texts([scene.caption for scene in scenes], seed=seed)
