"""Curves of a sweep as pictures, and what its pictures look like along them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bksdm.evaluation.gallery import IMAGES, slug
from bksdm.evaluation.grid import grid
from bksdm.evaluation.keeping import read_picture
from bksdm.evaluation.prompts import Prompt
from bksdm.evaluation.pruning.grid import BOTH, Curve
from bksdm.evaluation.pruning.pooled import Version
from bksdm.evaluation.pruning.sweep import Damage, Swept, labels
from bksdm.evaluation.score import Better, Score

# Okabe and Ito's colours, which the colour-blind tell apart; a method has a marker, too.
_COLOURS: Final = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES: Final = ("-", "--", ":")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")  # not as many: no pair comes twice
_AXIS: Final = {
    "text_encoder": "the text encoder",
    "unet": "the U-Net",
    BOTH: "text encoder + U-Net",
}
_PROMPTS: Final = 4


def write_curves(swept: Swept, found: Sequence[Damage], folder: Path) -> list[Path]:
    """A picture a score: quality against true sparsity, a panel a curve, a line a method."""
    paths: list[Path] = []
    if not any(curve.line for curve in swept.curves):
        return paths
    for name, score in swept.dense.scores.items():
        if score.better is Better.NEITHER or ":" in name:  # parts of another score
            continue
        figure = _figure(swept, found, name)
        path = folder / f"curve-{slug(name)}.png"
        figure.savefig(path, dpi=110)
        paths.append(path)
    return paths


def _figure(swept: Swept, found: Sequence[Damage], name: str) -> Figure:
    curves = [curve for curve in swept.curves if curve.line]
    figure = Figure(figsize=(4.6 * len(curves), 4.4), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, curve in zip(panels, curves, strict=True):
        _panel(axes, swept, curve, name)
        _mark(axes, found, curve, name)
    handles: dict[str, Artist] = {}
    for axes in panels:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles)
    )
    unit = ", %" if swept.dense.scores[name].percent else ""
    panels[0].set_ylabel(f"{name}{unit}")
    return figure


def _panel(axes: Axes, swept: Swept, curve: Curve, name: str) -> None:
    dense, numbers = swept.dense.scores[name], labels(swept.curves)
    low, value, high = _ends(dense)
    axes.axhline(value, color="#777777", linestyle="--", linewidth=1, label="dense")
    axes.axhspan(low, high, color="#777777", alpha=0.15, linewidth=0)
    for label in curve.methods:
        line = [v for v in swept.line(curve, label) if name in v.scores]
        x = [100 * version.true_sparsity(curve.grid.along) for version in line]
        ends = [_ends(version.scores[name]) for version in line]
        number = numbers[label]
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        style = _LINES[number // len(_COLOURS) % len(_LINES)]
        y = [middle for _, middle, _ in ends]
        axes.plot(x, y, style, color=colour, marker=marker, markersize=4, label=label)
        axes.fill_between(
            x, [e[0] for e in ends], [e[2] for e in ends], color=colour, alpha=0.12, linewidth=0
        )
    axes.set_title(f"{curve.name} ({curve.selection.words})", fontsize=10)
    axes.set_xlabel(f"zeros in {_AXIS[curve.grid.along]}, % of all its weights")
    axes.grid(alpha=0.25)
    if dense.better is Better.LOWER and value > 0:
        axes.set_yscale("log")


def _mark(axes: Axes, found: Sequence[Damage], curve: Curve, name: str) -> None:
    """The cliff of the curve's first method, with its interval."""
    first = next(iter(curve.methods))
    for each in found:
        if (each.curve, each.label, each.score) != (curve.name, first, name):
            continue
        if each.cliff.value is not None:
            axes.axvline(100 * each.cliff.value, color=_COLOURS[0], linewidth=0.8, linestyle=":")
            axes.annotate(
                f"cliff of {first}",
                (100 * each.cliff.value, 0.02),
                xycoords=("data", "axes fraction"),
                fontsize=7,
                rotation=90,
                ha="right",
            )


def _ends(score: Score) -> tuple[float, float, float]:
    unit = 100 if score.percent else 1
    low, high = (score.value if end is None else end for end in (score.low, score.high))
    return unit * low, unit * score.value, unit * high


def write_strips(
    swept: Swept, prompts: Sequence[Prompt], folder: Path, *, suffix: str
) -> list[Path]:
    """A picture a curve: the same prompts with the same noise, a column a point, of its first
    method.

    Args:
        swept: the sweep.
        prompts: of its first seed; the first of them are shown.
        folder: to write into.
        suffix: of the pictures' files.
    """
    paths = []
    for curve in swept.curves:
        label = next(iter(curve.methods))
        versions = [swept.dense, *swept.line(curve, label)]
        path = folder / f"pictures-{slug(curve.name)}.png"
        _strip(versions, prompts[:_PROMPTS], suffix).save(path)
        paths.append(path)
    return paths


def _strip(versions: Sequence[Version], prompts: Sequence[Prompt], suffix: str) -> Image.Image:
    columns = {
        "dense" if version.label == "dense" else f"{version.point} %": [
            read_picture(
                (version.measured[0].folder / IMAGES / f"{prompt.id}{suffix}").read_bytes()
            )
            for prompt in prompts
        ]
        for version in versions
    }
    return grid(columns, [prompt.text for prompt in prompts])
