"""Prompts of the protocols."""

from dataclasses import dataclass

import numpy as np

from bksdm.data.shapes import sample_scene


@dataclass(frozen=True)
class Prompt:
    """A prompt and the seed of its image: the image depends on nothing else."""

    id: str
    text: str
    seed: int


def from_texts(texts: list[str], *, seed: int) -> list[Prompt]:
    """Prompts with consecutive seeds."""
    return [Prompt(f"{i:06d}", text, seed + i) for i, text in enumerate(texts)]


def shapes_prompts(count: int, *, seed: int, held_out: bool = False) -> list[Prompt]:
    """Captions of random scenes of the embedded world."""
    scenes = [
        sample_scene(np.random.default_rng((seed, i)), held_out=held_out) for i in range(count)
    ]
    return from_texts([scene.caption for scene in scenes], seed=seed)
