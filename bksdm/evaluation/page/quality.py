"""Quality against cost: the deciding score over MACs, parameters and time, one plot each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup
from matplotlib.axes import Axes

from bksdm.evaluation.cost.timing import Quartiles
from bksdm.evaluation.page.costs import Costs, costs_of
from bksdm.evaluation.page.evaluated import Evaluated
from bksdm.evaluation.page.labels import HEIGHT, LETTER, Box, Name, beside, fitting
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.numbers import DIRECTION, prefix, short, shown, significant, there
from bksdm.evaluation.page.svg import (
    FONT,
    INK,
    MUTED,
    PAPER,
    ident,
    inline,
    model_colour,
    new_figure,
    style,
)
from bksdm.evaluation.score import Better

_WIDTH, _HEIGHT = 344, 270
_FRAME: Final = (0.15, 0.17, 0.81, 0.76)  # of the axes, in parts of the figure
_SMALL: Final = 9.5  # font size of published models
_LONGEST: Final = 140.0  # px of a name


@dataclass(frozen=True)
class Point:
    """A model in a plot; `model` is None for a published one."""

    name: str
    model: Model | None
    cost: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Axis:
    """A cost to plot against: its name, unit, and how it is read from our and published models."""

    name: str
    unit: str
    ours: Callable[[Costs], float | None]
    published: str | None = None  # attribute of PublishedModel


def _median(spread: Quartiles | None, *, times: float = 1.0) -> float | None:
    return None if spread is None else times * spread.median


_MACS: Final = Axis("MACs of a U-Net call", "", lambda costs: costs.macs)
_MACS_PUBLISHED: Final = Axis(
    "MACs of a U-Net call, as published", "", lambda costs: costs.macs_published, "macs_published"
)
_PARAMETERS: Final = Axis(
    "Parameters of the U-Net", "", lambda costs: costs.parameters, "parameters"
)
_IMAGE: Final = Axis("Time of an image", "s", lambda costs: _median(costs.image_seconds))
_CALL: Final = Axis(
    "Time of a U-Net call", "ms", lambda costs: _median(costs.call_seconds, times=1e3)
)


def quality_plots(evaluated: Evaluated) -> list[Markup]:
    """As many plots as there are costs of at least two models; none without a deciding score."""
    if evaluated.deciding is None:
        return []
    # Published models are counted in the published convention only: all in one plot, or none.
    macs = _MACS_PUBLISHED if evaluated.published else _MACS
    time = _IMAGE if len(points_of(evaluated, _IMAGE)) > 1 else _CALL
    plots = ((axis, points_of(evaluated, axis)) for axis in (macs, _PARAMETERS, time))
    return [_plot(evaluated, axis, points) for axis, points in plots if len(points) > 1]


def points_of(evaluated: Evaluated, axis: Axis) -> list[Point]:
    """The models of which both are known, ours first."""
    name = evaluated.deciding or ""
    result = []
    for model, source in evaluated.rows:
        score, cost = source.result.score(name), axis.ours(costs_of(source.result))
        if score is not None and there(score.value) and cost is not None:
            factor = shown(score)
            low, high = (None if end is None else factor * end for end in (score.low, score.high))
            result.append(Point(model.label, model, cost, factor * score.value, low, high))
    published = evaluated.published
    theirs = published.name(name) if published else None
    if published is None or theirs is None or axis.published is None:
        return result
    for other in published.models:
        cost, value = getattr(other, axis.published), other.scores.get(theirs)
        if cost is not None and value is not None:
            result.append(Point(other.label, None, cost, value))
    return result


def _plot(evaluated: Evaluated, axis: Axis, points: list[Point]) -> Markup:
    score = evaluated.example(evaluated.deciding or "")
    direction = DIRECTION[score.better if score else Better.NEITHER]
    factor, letter = prefix(point.cost for point in points)
    with style():
        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.add_axes(_FRAME)
        for point in reversed(points):  # ours above published ones
            _draw(axes, point, point.cost / factor)
        unit = f"{letter}{axis.unit}"
        axes.set_xlabel(f"{axis.name}{f', {unit}' if unit else ''}")
        percent = ", %" if score and score.percent else ""
        axes.set_title(f"{evaluated.deciding}{percent} ({direction})", loc="left", color=INK, pad=8)
        axes.margins(x=0.16, y=0.14)
        axes.xaxis.grid(visible=False)
        axes.locator_params(axis="x", nbins=5)
        axes.locator_params(axis="y", nbins=5)
        _name(axes, points, factor)
        return inline(
            figure,
            name=ident("quality", evaluated.name, axis.name),
            title=f"{evaluated.deciding} against {axis.name[0].lower()}{axis.name[1:]}",
            description="; ".join(_words(point, axis.unit) for point in points),
        )


def _draw(axes: Axes, point: Point, cost: float) -> None:
    if point.model is None:
        axes.plot(cost, point.value, "o", mfc=PAPER, mec=MUTED, ms=5, mew=1.1)
        return
    colour = model_colour(point.model.colour)
    if point.low is not None and point.high is not None:
        axes.plot(
            [cost, cost], [point.low, point.high], color=colour, lw=1.4, solid_capstyle="butt"
        )
    axes.plot(cost, point.value, point.model.marker, color=colour, ms=7.5, mec=PAPER, mew=0.8)


def _name(axes: Axes, points: list[Point], factor: float) -> None:
    """Names beside the points."""
    axes.autoscale_view()  # else the limits are not yet those of the points
    left, bottom, width, height = _FRAME
    frame = Box(left * _WIDTH, bottom * _HEIGHT, width * _WIDTH + 12, height * _HEIGHT)
    places = axes.transData.transform([(point.cost / factor, point.value) for point in points])
    names = [fitting(point.name, _LONGEST) for point in points]
    sizes = [_SMALL if point.model is None else FONT for point in points]
    boxes = beside(
        [
            Name(float(x), float(y), LETTER * len(name) * size / FONT, point.model is not None)
            for (x, y), name, size, point in zip(places, names, sizes, points, strict=True)
        ],
        within=frame,
        bars=_bars(axes, points, factor),
    )
    for point, name, size, box in zip(points, names, sizes, boxes, strict=True):
        if box is not None:
            axes.annotate(
                name,
                (box.left, box.bottom + HEIGHT / 2),
                xycoords="figure pixels",
                va="center",
                color=MUTED if point.model is None else model_colour(point.model.colour),
                fontsize=size,
            )


def _bars(axes: Axes, points: list[Point], factor: float) -> list[Box]:
    """Where the intervals are drawn."""
    bars = []
    for point in points:
        if point.low is not None and point.high is not None:
            cost = point.cost / factor
            ends = axes.transData.transform([(cost, point.low), (cost, point.high)])
            (x, bottom), (_, top) = ends
            bars.append(Box(float(x) - 1, float(bottom), 2, float(top - bottom)))
    return bars


def _words(point: Point, unit: str) -> str:
    interval = ""
    if point.low is not None and point.high is not None:
        interval = f" ({significant(point.low)} to {significant(point.high)})"
    of = "published " if point.model is None else ""
    return f"{of}{point.name}: {significant(point.value)}{interval} at {short(point.cost, unit)}"
