"""The table: a row a model and a published model, a column a score and a cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from bksdm.evaluation.page.costs import Costs, Spread, costs_of
from bksdm.evaluation.page.evaluated import Evaluated
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.numbers import DASH, decimals, fixed, prefix, shown, significant, there
from bksdm.evaluation.page.published import PublishedModel
from bksdm.evaluation.score import Better, Score

_TO: Final = "\N{EN DASH}"
_RATIO: Final = "ratio to baseline"
_DIRECTION: Final = {
    Better.HIGHER: "higher is better",
    Better.LOWER: "lower is better",
    Better.NEITHER: "a distance",
}


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
    made += _cost_columns([costs_of(source.result) for _, source in evaluated.rows], others)
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
        note=_DIRECTION[better],
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


def _cost_columns(
    ours: Sequence[Costs], others: Sequence[PublishedModel]
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
        _spreads(Column("U-Net call", note=_RATIO), [each.call_ratio for each in ours], none),
        _spreads(Column("Image", "s"), [each.image_seconds for each in ours], none),
        _spreads(Column("Image", note=_RATIO), [each.image_ratio for each in ours], none),
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


def _spreads(
    column: Column,
    ours: Sequence[Spread | None],
    others: Sequence[None],
    *,
    factor: float = 1.0,
) -> tuple[Column, list[Cell]]:
    def cell(spread: Spread | None) -> Cell:
        if spread is None:
            return Cell()
        low, high = significant(spread.low * factor), significant(spread.high * factor)
        return Cell(significant(spread.median * factor), spread.median, f"{low}{_TO}{high}")

    return column, [*map(cell, ours), *(Cell() for _ in others)]
