"""Where names stand beside points and lines so that they do not cover each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LETTER: Final = 6.3  # px a letter at the plots' font size, on average
HEIGHT: Final = 13.0
_GAP: Final = 7.0
_TOLERATED: Final = 20.0  # px that a name may cover if it can be left out


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y upwards."""

    left: float
    bottom: float
    width: float
    height: float

    def overlap(self, other: "Box") -> float:
        """Area in common."""
        wide = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        high = min(self.bottom + self.height, other.bottom + other.height) - max(
            self.bottom, other.bottom
        )
        return max(wide, 0.0) * max(high, 0.0)


@dataclass(frozen=True)
class Name:
    """What stands beside a point.

    Attributes:
        x: of the point.
        y: of it.
        width: of the name.
        needed: whether it stays where there is no free place.
    """

    x: float
    y: float
    width: float
    needed: bool


def beside(names: Sequence[Name], *, within: Box, bars: Sequence[Box] = ()) -> list[Box | None]:
    """A box for each name near its point, where it covers least of points, bars, earlier names and
    the edge; None for one that is not needed and would cover any.
    """
    taken = [*bars, *(Box(name.x - 4, name.y - 4, 8, 8) for name in names)]
    result: list[Box | None] = []
    for name in names:
        places = _places(name)
        faults = [_fault(box, taken, within) for box in places]
        fault = min(faults)
        best = places[faults.index(fault)]
        kept = name.needed or fault < _TOLERATED
        taken += [best] * kept
        result.append(best if kept else None)
    return result


def _places(name: Name) -> list[Box]:
    """Beside the point, above and below it, then farther up and down."""
    right, left = name.x + _GAP, name.x - _GAP - name.width
    middle = name.y - HEIGHT / 2
    places = [(right, middle), (left, middle)]
    for step in (_GAP + HEIGHT / 2, _GAP + HEIGHT, _GAP + 2 * HEIGHT):
        for x in (name.x - name.width / 2, right, left):
            places += [(x, middle + step), (x, middle - step)]
    return [Box(x, y, name.width, HEIGHT) for x, y in places]


def _fault(box: Box, others: Sequence[Box], within: Box) -> float:
    outside = box.width * box.height - box.overlap(within)
    return 3 * outside + sum(box.overlap(other) for other in others)


def spread(heights: Sequence[float], *, low: float, high: float) -> list[float]:
    """Heights for names at the ends of lines: in the same order, at least a line apart, between
    `low` and `high` as far as they fit.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    result = list(heights)
    floor = low
    for i in order:
        result[i] = max(heights[i], floor)
        floor = result[i] + HEIGHT
    ceiling = high
    for i in reversed(order):
        result[i] = min(result[i], ceiling)
        ceiling = result[i] - HEIGHT
    return result


def fitting(name: str, width: float) -> str:
    """A name, or as much of it as is at most so wide."""
    letters = max(int(width / LETTER), 2)
    return name if len(name) <= letters else f"{name[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"
