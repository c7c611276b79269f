"""Curves: losses of training by step, and what a score says by timestep."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from bksdm.evaluation.page.evaluated import Evaluated
from bksdm.evaluation.page.labels import fitting, spread
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.numbers import significant
from bksdm.evaluation.page.sources import Source
from bksdm.evaluation.page.svg import INK, ident, inline, model_colour, new_figure, style

BY_TIMESTEP: Final = "by timestep"  # of a score's details
_WIDTH, _HEIGHT = 344, 230
_FRAME: Final = (0.14, 0.19, 0.62, 0.69)  # room for names to the right
_LOG_FROM: Final = 20  # largest over smallest


@dataclass(frozen=True)
class Line:
    """A model's curve."""

    model: Model
    xs: tuple[float, ...]
    ys: tuple[float, ...]


def training_plots(sources: Sequence[Source], models: Mapping[str, Model]) -> list[Markup]:
    """A plot for each loss that any model's training has."""
    curves: dict[str, dict[str, Line]] = {}
    for source in sources:
        model = models[source.result.weights]
        for name, values in source.result.curves.items():
            line = line_of(model, values)
            if line is not None:  # one for each model, however many protocols it has
                curves.setdefault(name, {})[model.weights] = line
    return [
        _plot(list(lines.values()), key=f"training {name}", title=f"Training: {name}", x="step")
        for name, lines in curves.items()
    ]


def timestep_plots(evaluated: Evaluated) -> list[Markup]:
    """A plot for each score that has values by timestep."""
    plots = []
    for name in evaluated.scores:
        scores = [(model, source.result.score(name)) for model, source in evaluated.rows]
        found = [
            line_of(model, score.details[BY_TIMESTEP])
            for model, score in scores
            if score is not None and score.details.get(BY_TIMESTEP)
        ]
        lines = [line for line in found if line is not None]
        if lines:
            key = f"timestep {evaluated.name} {name}"
            plots.append(
                _plot(lines, key=key, title=f"{evaluated.name}: {name} by timestep", x="timestep")
            )
    return plots


def line_of(model: Model, values: Sequence[Sequence[Any]]) -> Line | None:
    """A curve of the values that are numbers, as results have it; None if none is."""
    pairs = [(float(x), float(y)) for x, y in values if y is not None and math.isfinite(float(y))]
    return Line(model, tuple(x for x, _ in pairs), tuple(y for _, y in pairs)) if pairs else None


def _plot(lines: Sequence[Line], *, key: str, title: str, x: str) -> Markup:
    values = [y for line in lines for y in line.ys]
    log = min(values) > 0 and max(values) / min(values) > _LOG_FROM
    with style():
        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.add_axes(_FRAME)
        for line in lines:
            axes.plot(
                line.xs,
                line.ys,
                color=model_colour(line.model.colour),
                linestyle=line.model.dashes,
                lw=1.6,
                marker=line.model.marker if len(line.xs) < 30 else "",
                ms=4,
            )
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # no TeX
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.locator_params(axis="y", nbins=5)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.grid(visible=False)
        axes.set_xlabel(x)
        axes.set_title(title + " (log scale)" * log, loc="left", color=INK, pad=8)
        _name(axes, lines)
        return inline(
            figure,
            name=ident(key),
            title=f"{title} by {x}" if x not in title else title,
            description="; ".join(
                f"{line.model.label}: from {significant(line.ys[0])} at {x} {line.xs[0]:g} to"
                f" {significant(line.ys[-1])} at {line.xs[-1]:g}"
                for line in lines
            ),
        )


def _name(axes: Axes, lines: Sequence[Line]) -> None:
    """Each line's name at its end."""
    axes.autoscale_view()  # else the limits are not yet those of the lines
    left, bottom, width, height = _FRAME
    ends = [float(axes.transData.transform((line.xs[-1], line.ys[-1]))[1]) for line in lines]
    low, high = bottom * _HEIGHT + 5, (bottom + height) * _HEIGHT
    for line, y in zip(lines, spread(ends, low=low, high=high), strict=True):
        axes.annotate(
            fitting(line.model.label, (1 - left - width) * _WIDTH - 6),
            ((left + width) * _WIDTH + 6, y),
            xycoords="figure pixels",
            va="center",
            color=model_colour(line.model.colour),
        )
