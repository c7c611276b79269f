"""The table: a row a model and a published model, a column a score and a cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from bksdm.evaluation.cost.timing import Quartiles
from bksdm.evaluation.page.costs import Costs, costs_of
from bksdm.evaluation.page.evaluated import Evaluated
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.numbers import (
    DASH,
    DIRECTION,
    decimals,
    fixed,
    prefix,
    shown,
    significant,
    there,
)
from bksdm.evaluation.page.published import PublishedModel
from bksdm.evaluation.score import Better, Score

_TO: Final = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A number as it is read and as it is sorted.

    Attributes:
        text: the number, or a dash.
        value: what it is sorted by; None sorts last.
        aside: its interval, in a lighter tone.
    """

    text: str = DASH
    value: float | None = None
    aside: str = ""


@dataclass(frozen=True)
class Column:
    """A column's head.

    Attributes:
        name: what it is.
        unit: of its numbers.
        note: what else has to be said of it.
        better: which way is good.
        decides: whether verdicts are about it.
    """

    name: str
    unit: str = ""
    note: str = ""
    better: Better = Better.LOWER
    decides: bool = False


@dataclass(frozen=True)
class Row:
    """A model of ours, or (model None) a published one."""

    name: str
    model: Model | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class _Ratios:
    """What ratios of time are to.

    Attributes:
        note: of their columns.
        asides: of our models, where it is not the same for all.
    """

    note: str
    asides: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Columns in which nobody has a number are left out."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def table(evaluated: Evaluated) -> Table:
    """Scores, the deciding one first, then costs; our models, then published ones."""
    others = evaluated.published.models if evaluated.published else ()
    names = [(model.label, model) for model, _ in evaluated.rows]
    heads = [*names, *((other.name, None) for other in others)]
    made = [_score_column(evaluated, name, others) for name in evaluated.scores]
    costs = [costs_of(source.result) for _, source in evaluated.rows]
    made += _cost_columns(costs, others, ratios=_ratios(evaluated, costs))
    kept = [
        (column, cells) for column, cells in made if any(cell.value is not None for cell in cells)
    ]
    rows = tuple(
        Row(name, model, tuple(cells[i] for _, cells in kept))
        for i, (name, model) in enumerate(heads)
    )
    return Table(tuple(column for column, _ in kept), rows)


def _score_column(
    evaluated: Evaluated, name: str, others: Sequence[PublishedModel]
) -> tuple[Column, list[Cell]]:
    scores = [source.result.score(name) for _, source in evaluated.rows]
    example = evaluated.example(name)
    theirs = evaluated.published.name(name) if evaluated.published else None
    values = [other.scores.get(theirs) if theirs else None for other in others]
    shares = example is not None and example.percent
    places = max(
        [_score_places(score) for score in scores if score is not None and there(score.value)]
        + [decimals(value) for value in values if value is not None],
        default=0,
    )
    better = example.better if example else Better.NEITHER
    column = Column(
        name,
        unit="%" if shares else "",
        note=DIRECTION[better],
        better=better,
        decides=name == evaluated.deciding,
    )
    ours = [_score_cell(score, places) for score in scores]
    return column, ours + [_plain_cell(value, places) for value in values]


def _score_places(score: Score) -> int:
    width = None if score.low is None or score.high is None else score.high - score.low
    return decimals(score.value * shown(score), width=width and width * shown(score))


def _score_cell(score: Score | None, places: int) -> Cell:
    if score is None or not there(score.value):
        return Cell()
    aside, factor = "", shown(score)
    if score.low is not None and score.high is not None:
        aside = f"{fixed(score.low * factor, places)}{_TO}{fixed(score.high * factor, places)}"
    elif there(score.deviation):
        aside = f"s.d. {significant(score.deviation, 2)}"
    return Cell(fixed(score.value * factor, places), score.value, aside)


def _plain_cell(value: float | None, places: int) -> Cell:
    return Cell() if value is None else Cell(fixed(value, places), value)


def _ratios(evaluated: Evaluated, costs: Sequence[Costs]) -> _Ratios:
    """Said by name where it is not one baseline for all."""
    labels = {model.name: model.label for model, _ in evaluated.rows}
    timed = [each for each in costs if each.call_ratio or each.image_ratio]
    beside = {each.timed_beside for each in timed}
    if len(beside) > 1:
        names = (each.timed_beside or "baseline" for each in costs)
        asides = tuple(f", to {labels.get(name, name)}" for name in names)
        return _Ratios("ratio to the model it was timed beside", asides)
    baselines = {against.name for _, source in evaluated.rows for against in source.result.against}
    name = next(iter(beside), None)
    to = "baseline" if name is None or baselines == {name} else labels.get(name, name)
    return _Ratios(f"ratio to {to}", ("",) * len(costs))


def _cost_columns(
    ours: Sequence[Costs], others: Sequence[PublishedModel], *, ratios: _Ratios
) -> list[tuple[Column, list[Cell]]]:
    none = [None] * len(others)
    batches = sorted({each.throughput_batch for each in ours if each.throughput_batch})
    at = f"at batch {', '.join(map(str, batches))}"
    return [
        _scaled(
            Column("Parameters", note="U-Net"),
            [each.parameters for each in ours],
            [each.parameters for each in others],
        ),
        _scaled(Column("MACs", note="a U-Net call"), [each.macs for each in ours], none),
        _scaled(
            Column("MACs", note="as published"),
            [each.macs_published for each in ours],
            [each.macs_published for each in others],
        ),
        _spreads(
            Column("U-Net call", "ms"), [each.call_seconds for each in ours], none, factor=1e3
        ),
        _ratio("U-Net call", [each.call_ratio for each in ours], none, ratios),
        _spreads(Column("Image", "s"), [each.image_seconds for each in ours], none),
        _ratio("Image", [each.image_ratio for each in ours], none, ratios),
        _scaled(Column("Memory", "B", "for an image"), [each.memory for each in ours], none),
        _scaled(
            Column("Images/s", note=at, better=Better.HIGHER),
            [each.throughput for each in ours],
            none,
        ),
    ]


def _scaled(
    column: Column, ours: Sequence[float | None], others: Sequence[float | None]
) -> tuple[Column, list[Cell]]:
    """All in the unit of the largest, so that digits stand below each other."""
    values = [*ours, *others]
    factor, letter = prefix(value for value in values if value is not None)
    places = max((decimals(v / factor, digits=4) for v in values if v), default=0)
    cells = [
        Cell() if value is None else Cell(fixed(value / factor, min(places, 2)), value)
        for value in values
    ]
    return replace(column, unit=f"{letter}{column.unit}"), cells


def _ratio(
    name: str, ours: Sequence[Quartiles | None], others: Sequence[None], ratios: _Ratios
) -> tuple[Column, list[Cell]]:
    column, cells = _spreads(Column(name, note=ratios.note), ours, others)
    asides = [*ratios.asides, *("" for _ in others)]
    return column, [
        replace(cell, aside=cell.aside + aside) if cell.aside else cell
        for cell, aside in zip(cells, asides, strict=True)
    ]


def _spreads(
    column: Column,
    ours: Sequence[Quartiles | None],
    others: Sequence[None],
    *,
    factor: float = 1.0,
) -> tuple[Column, list[Cell]]:
    def cell(spread: Quartiles | None) -> Cell:
        if spread is None:
            return Cell()
        low, high = significant(spread.low * factor), significant(spread.high * factor)
        return Cell(significant(spread.median * factor), spread.median, f"{low}{_TO}{high}")

    return column, [*map(cell, ours), *(Cell() for _ in others)]
