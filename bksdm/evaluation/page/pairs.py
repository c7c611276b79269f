"""The pairs that differ most: a model's picture and its baseline's, of the same prompt and seed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from bksdm.evaluation.comparison import differ_most
from bksdm.evaluation.page.evaluated import Evaluated
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.numbers import THIN, decimals, fixed, shown, signed
from bksdm.evaluation.page.pictures import Picture, picture
from bksdm.evaluation.page.sources import Source
from bksdm.evaluation.score import Better, Items, Score

PAIRS: Final = 8  # of a comparison


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt.

    Attributes:
        caption: the prompt.
        better: the model's is the better one; None where neither way is good.
        pictures: the model's and the baseline's; None where one is gone.
        values: theirs, in that order.
        difference: model minus baseline.
    """

    caption: str
    better: bool | None
    pictures: tuple[Picture | None, Picture | None]
    values: tuple[str, str]
    difference: str


@dataclass(frozen=True)
class Pairs:
    """The pairs of a comparison.

    Attributes:
        model: it.
        baseline: what it is compared with.
        score: what they differ in.
        found: the worst losses, then the best wins.
        because: why there is none; empty otherwise.
    """

    model: Model
    baseline: Model
    score: str
    found: tuple[Pair, ...]
    because: str = ""


def pairs_that_differ(evaluated: Evaluated, models: Mapping[str, Model]) -> list[Pairs]:
    """One for each comparison with a model that is on the page."""
    result = []
    for model, source in evaluated.rows:
        for against in source.result.against:
            baseline = evaluated.source(against.weights)
            if baseline is not None:
                other = models[against.weights]
                result.append(_pairs(model, source, other, baseline, against.deciding))
    return result


def _pairs(model: Model, source: Source, other: Model, baseline: Source, name: str) -> Pairs:
    ours, theirs = by_prompt(source, name), by_prompt(baseline, name)
    if ours is None or theirs is None:
        why = f"no values of {name} by prompt lie beside the results of both"
        return Pairs(model, other, name, (), why)
    rows = differ_most(ours, theirs, PAIRS)
    if not rows:
        return Pairs(model, other, name, (), f"no prompt differs in {name}")
    found = tuple(_pair(item, source, baseline, ours, theirs) for item, _ in rows)
    return Pairs(model, other, name, found)


def by_prompt(source: Source, name: str) -> Score | None:
    """A score with one value a prompt, the mean of what it has of it; None where it has none."""
    score = source.result.score(name)
    if score is None or score.items is None:
        return None
    values: dict[str, list[float]] = {}
    for item, value in zip(score.items.ids, score.items.values, strict=True):
        prompt = item.partition("/")[0]  # several draws of a prompt are PROMPT/0, PROMPT/1, ...
        if prompt in source.prompts:
            values.setdefault(prompt, []).append(value)
    if not values:
        return None
    means = tuple(fmean(each) for each in values.values())
    return replace(score, items=Items(tuple(values), means))


def _pair(item: str, source: Source, baseline: Source, ours: Score, theirs: Score) -> Pair:
    factor = shown(ours)
    values = factor * _value(ours.items, item), factor * _value(theirs.items, item)
    difference = values[0] - values[1]
    broken = [value for value in values if not value.is_integer()]
    places = max((decimals(value, digits=3) for value in broken), default=0)
    unit = f"{THIN}%" if ours.percent else ""
    gain = {Better.HIGHER: difference, Better.LOWER: -difference, Better.NEITHER: 0.0}[ours.better]
    caption = source.prompts.get(item) or baseline.prompts.get(item) or item
    return Pair(
        caption=caption,
        better=None if gain == 0 else gain > 0,
        pictures=(picture(source.picture(item)), picture(baseline.picture(item))),
        values=(fixed(values[0], places) + unit, fixed(values[1], places) + unit),
        difference=signed(difference, places),
    )


def _value(items: Items | None, item: str) -> float:
    assert items is not None
    return items.values[items.ids.index(item)]
