"""Who is who on the page: one label, colour and marker for each model, everywhere."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bksdm.evaluation.page.sources import Source

# Marker of matplotlib and the same as a character; a model is never told by its colour alone.
_MARKS: Final = (
    ("o", "\N{BLACK CIRCLE}"),
    ("s", "\N{BLACK SQUARE}"),
    ("^", "\N{BLACK UP-POINTING TRIANGLE}"),
    ("D", "\N{BLACK DIAMOND}"),
    ("v", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    ("P", "\N{HEAVY GREEK CROSS}"),
    ("*", "\N{BLACK STAR}"),
)
_DASHES: Final = ("-", "--", "-.", ":")
COLOURS: Final = 7  # --m0 (a baseline's) to --m6 of page.css


@dataclass(frozen=True)
class Model:
    """A model as the page shows it.

    Attributes:
        weights: its fingerprint.
        name: as the user named it.
        label: short, and no other model's.
        colour: number of its colour in page.css; 0 is the baseline's.
        place: its place among all models.
        baseline: whether others are compared with it.
    """

    weights: str
    name: str
    label: str
    colour: int
    place: int
    baseline: bool

    @property
    def marker(self) -> str:
        """Of matplotlib."""
        return _MARKS[self.place % len(_MARKS)][0]

    @property
    def mark(self) -> str:
        """The same as a character."""
        return _MARKS[self.place % len(_MARKS)][1]

    @property
    def dashes(self) -> str:
        """Of its lines."""
        return _DASHES[self.place % len(_DASHES)]


def models_of(sources: Sequence[Source]) -> dict[str, Model]:
    """The models by fingerprint: baselines first, else in the order of the sources."""
    first: dict[str, Source] = {}
    for source in sources:
        first.setdefault(source.result.weights, source)
    names = {weights: source.result.name for weights, source in first.items()}
    baselines = {each.weights for source in sources for each in source.result.against}
    order = sorted(names, key=lambda weights: weights not in baselines)
    labels = _labels(first)
    before = sum(weights in baselines for weights in order)
    result = {}
    for place, weights in enumerate(order):
        baseline = weights in baselines
        # Students begin at colour 1 whether there is a baseline or not.
        colour = 0 if place == 0 and baseline else 1 + (place - (before > 0)) % (COLOURS - 1)
        result[weights] = Model(weights, names[weights], labels[weights], colour, place, baseline)
    return result


def _labels(sources: Mapping[str, Source]) -> dict[str, str]:
    """The shortest of these that no other model has: the last part of the name, all of it, the same
    after the run that it was found in (all runs call their student the same), or after a piece of
    the fingerprint.
    """
    candidates = {
        weights: (
            _tail(source.result.name),
            source.result.name,
            f"{_tail(source.named)}: {_tail(source.result.name)}",
            f"{weights[:6]}: {source.result.name}",
        )
        for weights, source in sources.items()
    }
    counts = Counter(label for labels in candidates.values() for label in set(labels))
    return {
        weights: next((label for label in labels if counts[label] == 1), labels[-1])
        for weights, labels in candidates.items()
    }


def _tail(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]
