"""A score of a model: one number, its interval, and what it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Better(StrEnum):
    """Which way a score is good."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"  # a distance that is not a fault, such as SSIM to another model's image


@dataclass(frozen=True)
class Items:
    """The values that a score is the mean of, each of a prompt or of another fixed thing.

    Attributes:
        ids: what each value is of; the same in every model's score of that name.
        values: as many, float.
    """

    ids: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number about a model's pictures.

    Attributes:
        name: unique within a protocol, such as "FID" or "CLIP score ViT-g-14".
        value: as the field prints it; NaN where nothing was there to measure.
        better: which way is good.
        n: number of items (pictures, prompts) behind it.
        low: lower end of the 95 % interval; None where none is known.
        high: its upper end.
        deviation: standard deviation over parts of the pictures, which papers print beside the
            score. It is no interval of the score: parts of one set share its pictures.
        interval: how either was made ("Wilson", "bootstrap", "s.d. of 100 subsets").
        items: the values behind a mean, for paired comparison; None for a score of a whole set,
            such as FID.
        percent: whether it is a share, 0 to 1, that is shown as a percentage.
        details: everything else that repeats it: backbone, weights' hashes, reference set, curves.
    """

    name: str
    value: float
    better: Better
    n: int
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    interval: str = ""
    items: Items | None = None
    percent: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
