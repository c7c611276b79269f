"""The embedded world: captioned pictures of coloured shapes, drawn from a small grammar.

A scene is one object, or two objects in a relation, on a plain background. All colours of a picture
differ, so an attribute can be checked on the pixels alone. Some (shape, colour) pairs are held out
of every training split: they measure whether a model combines what it knows. Knows nothing of
shards, models or scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from bksdm.errors import InputError

IMAGE_SIZE: Final = 64
SHAPES: Final = ("circle", "square", "triangle", "cross")
# Radii in pixels; every shape touches all four sides of its bounding box, so the box alone tells
# the size.
SIZES: Final = {"small": 9.0, "big": 14.0}
COLORS: Final = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 80, 200),
    "yellow": (250, 215, 50),
    "purple": (150, 60, 190),
    "cyan": (70, 200, 220),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
# The relation's axis (0 is x, 1 is y) and the side on which the first object lies.
RELATIONS: Final = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
HELD_OUT: Final = frozenset(
    {("circle", "yellow"), ("square", "purple"), ("triangle", "cyan"), ("cross", "green")}
)
TWO_OBJECTS: Final = 0.6  # share of the scenes with two objects

_SUPERSAMPLING: Final = 4
# Distance of each of two objects from the middle, along the relation's axis.
_HALF_GAP: Final = 15.5
_JITTER_ALONE, _JITTER_ALONG, _JITTER_ACROSS = 8.0, 1.0, 6.0


@dataclass(frozen=True)
class Thing:
    """One object of a scene, by the words of its caption."""

    size: str
    color: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a caption says: one thing, or two in a relation, on a background."""

    things: tuple[Thing, ...]
    relation: str | None
    background: str

    def __post_init__(self) -> None:
        colors = [thing.color for thing in self.things] + [self.background]
        if len(set(colors)) != len(colors) or (self.relation is None) != (len(self.things) == 1):
            raise InputError(
                f"not a scene of the shapes world: {self!r}; colours differ, two things have a"
                " relation"
            )

    @property
    def caption(self) -> str:
        """The scene in words; `parse` is the inverse."""
        body = (
            f" {self.relation} ".join(map(str, self.things))
            if self.relation
            else str(self.things[0])
        )
        return f"{body} on a {self.background} background"

    @property
    def held_out(self) -> bool:
        """True if a thing's (shape, colour) pair never occurs in training."""
        return any((thing.shape, thing.color) in HELD_OUT for thing in self.things)


def parse(caption: str) -> Scene:
    """The scene that a caption describes.

    Raises:
        InputError: the caption is not of this world's grammar.
    """
    body, joint, tail = caption.partition(" on a ")
    relation = next((name for name in RELATIONS if f" {name} " in body), None)
    things = [part.split() for part in (body.split(f" {relation} ") if relation else [body])]
    background = tail.removesuffix(" background")
    known = all(
        len(words) == 4
        and words[0] == "a"
        and words[1] in SIZES
        and words[2] in COLORS
        and words[3] in SHAPES
        for words in things
    )
    if not (joint and known and background in COLORS):
        raise InputError(
            f"caption {caption!r} is not of the shapes world; expected e.g. "
            "'a big red circle left of a small blue square on a white background'"
        )
    return Scene(tuple(Thing(*words[1:]) for words in things), relation, background)


def sample_scene(rng: np.random.Generator, *, held_out: bool = False) -> Scene:
    """A random scene; with `held_out`, one with a held-out pair, else one without any."""
    while True:
        count = 2 if rng.random() < TWO_OBJECTS else 1
        colors = rng.permutation(list(COLORS))[: count + 1]
        things = tuple(
            Thing(str(rng.choice(list(SIZES))), str(color), str(rng.choice(SHAPES)))
            for color in colors[1:]
        )
        relation = str(rng.choice(list(RELATIONS))) if count == 2 else None
        scene = Scene(things, relation, str(colors[0]))
        if scene.held_out == held_out:
            return scene


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Draw a scene anti-aliased at 64x64, its positions jittered as the caption allows."""
    side = IMAGE_SIZE * _SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), COLORS[scene.background])
    pen = ImageDraw.Draw(canvas)
    for thing, center in zip(scene.things, _centers(scene, rng), strict=True):
        _draw_thing(pen, thing, [value * _SUPERSAMPLING for value in center])
    return canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)


def _centers(scene: Scene, rng: np.random.Generator) -> list[list[float]]:
    middle = IMAGE_SIZE / 2
    if scene.relation is None:
        return [list(middle + rng.uniform(-_JITTER_ALONE, _JITTER_ALONE, 2))]
    axis, side = RELATIONS[scene.relation]
    centers = []
    for sign in (side, -side):
        center = list(middle + rng.uniform(-_JITTER_ACROSS, _JITTER_ACROSS, 2))
        center[axis] = middle + sign * _HALF_GAP + rng.uniform(-_JITTER_ALONG, _JITTER_ALONG)
        centers.append(center)
    return centers


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, center: list[float]) -> None:
    (x, y), r, fill = center, SIZES[thing.size] * _SUPERSAMPLING, COLORS[thing.color]
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=fill)
    else:
        pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=fill)
        pen.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=fill)


def samples(
    count: int, *, seed: int, held_out: bool = False, start: int = 0
) -> Iterator[tuple[Scene, Image.Image]]:
    """`count` scenes with their pictures, from `start` on; sample i depends on (seed, i) alone."""
    for index in range(start, start + count):
        rng = np.random.default_rng((seed, int(held_out), index))
        scene = sample_scene(rng, held_out=held_out)
        yield scene, draw(scene, rng)
