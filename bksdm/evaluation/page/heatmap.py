"""What each expert keeps, drawn as SVG: a row a layer in the order of the forward, a column an
expert, the fuller the more of its units stay, a dashed outline where it went as a whole.

A table of the same stands beside it for those who do not see it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from markupsafe import Markup

from bksdm.evaluation.page.numbers import percent
from bksdm.evaluation.routing.analysis import Analysis, ExpertAnalysis

# All in px of the drawing.
_LABELS, _ROW, _GAP, _HEAD, _WIDTH, _NARROWEST, _WIDEST = 124, 13, 6, 34, 344, 13, 44
_LEGEND: Final = (1.0, 0.75, 0.5, 0.25, 0.0)
_KINDS: Final = {"attn1": "self-attention", "attn2": "cross-attention", "ff": "feed-forward"}


@dataclass(frozen=True)
class Row:
    """A layer.

    Attributes:
        block: that it lies in.
        layer: it, within its block.
        kept: of each expert that is drawn, the share of units that stay.
    """

    block: str
    layer: str
    kept: tuple[float, ...]


@dataclass(frozen=True)
class HeatMap:
    """What the page shows of the experts' layers.

    Attributes:
        svg: the drawing.
        experts: their numbers, in the order of the columns.
        rows: the same as numbers.
    """

    svg: Markup
    experts: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def texts(self) -> list[list[str]]:
        """Of each row its name and each expert's share, as people read them."""
        return [
            [
                f"{row.block} {row.layer}",
                *[percent(share) if share else "gone" for share in row.kept],
            ]
            for row in self.rows
        ]


def heat_map(analysis: Analysis, *, name: str, colour: int) -> HeatMap | None:
    """Of the experts that have prompts; None if no expert has.

    Args:
        analysis: of the router.
        name: of this drawing alone among all of a page.
        colour: number of its colour in page.css.
    """
    drawn = [each for each in analysis.experts if each.kept]
    if not drawn or not analysis.sites:
        return None
    rows = tuple(
        Row(*place(site), tuple(each.kept[number] for each in drawn))
        for number, site in enumerate(analysis.sites)
    )
    svg = _svg(rows, drawn, name=name, colour=colour)
    return HeatMap(svg, tuple(each.expert for each in drawn), rows)


def place(site: str) -> tuple[str, str]:
    """A layer's block and its name there: "up 1", "cross-attention 2"."""
    parts = site.split(".")
    try:
        at = next(i for i, part in enumerate(parts) if part in ("resnets", "attentions"))
        block = " ".join(parts[:at]).replace("_blocks", "").replace("_block", "")
        if parts[at] == "resnets":
            return block, f"resnet {parts[at + 1]}"
        inner = int(parts[at + 3])
        within = f".{inner}" * bool(inner)  # several layers in a transformer
        return block, f"{_KINDS.get(parts[-1], parts[-1])} {parts[at + 1]}{within}"
    except (StopIteration, IndexError, ValueError):
        return "", site


def _svg(rows: Sequence[Row], drawn: Sequence[ExpertAnalysis], *, name: str, colour: int) -> Markup:
    cell = min(max((_WIDTH - _LABELS) // len(drawn), _NARROWEST), _WIDEST)
    width = max(_LABELS + cell * len(drawn), _WIDTH)
    tops = _tops(rows)
    height = tops[-1] + _ROW + 34
    svg = ET.Element(
        "svg",
        {
            "class": "heat",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-text",
            "style": f"--model: var(--m{colour})",
        },
    )
    ET.SubElement(svg, "title", {"id": f"{name}-title"}).text = "What each expert keeps"
    ET.SubElement(svg, "desc", {"id": f"{name}-text"}).text = _words(rows, drawn)
    _text(svg, _LABELS, 11, "expert", "head")
    for column, each in enumerate(drawn):
        _text(svg, _LABELS + (column + 0.5) * cell, 27, str(each.expert), "number")
    for number, (row, top) in enumerate(zip(rows, tops, strict=True)):
        if number == 0 or rows[number - 1].block != row.block:
            _text(svg, 0, top + 10, row.block, "block")
        _text(svg, _LABELS - 6, top + 10, row.layer, "layer")
        for column, (share, each) in enumerate(zip(row.kept, drawn, strict=True)):
            told = percent(share) if share else "gone"
            said = f"expert {each.expert}, {row.block} {row.layer}: {told}"
            _cell(svg, _LABELS + column * cell, top, cell, share, said)
    _legend(svg, top=tops[-1] + _ROW + 14)
    return Markup(ET.tostring(svg, encoding="unicode"))


def _tops(rows: Sequence[Row]) -> list[int]:
    """Of each row; blocks stand apart."""
    tops, top = [], _HEAD
    for number, row in enumerate(rows):
        top += _GAP * (number > 0 and rows[number - 1].block != row.block)
        tops.append(top)
        top += _ROW
    return tops


def _words(rows: Sequence[Row], drawn: Sequence[ExpertAnalysis]) -> str:
    """For each expert how much it keeps of a layer on average, and how much goes as a whole."""
    told = []
    for column, each in enumerate(drawn):
        kept = [row.kept[column] for row in rows]
        gone = sum(not share for share in kept)
        mean = percent(sum(kept) / len(kept))
        told.append(
            f"expert {each.expert} keeps {mean} of a layer on average, and {gone} of {len(kept)}"
            " layers not at all"
        )
    return "; ".join(told) + "."


def _legend(svg: ET.Element, *, top: float) -> None:
    _text(svg, 0, top + 10, "units that stay", "block")
    for number, share in enumerate(_LEGEND):
        left = _LABELS - 32 + number * 50
        _cell(svg, left, top, 16, share, "")
        _text(svg, left + 19, top + 10, f"{share:.0%}" if share else "gone", "amount")


def _cell(svg: ET.Element, x: float, y: float, width: float, share: float, said: str) -> None:
    rect = ET.SubElement(
        svg,
        "rect",
        {
            "class": "kept" if share else "gone",
            "x": f"{x + 1:g}",
            "y": f"{y + 1:g}",
            "width": f"{width - 2:g}",
            "height": f"{_ROW - 2}",
        },
    )
    if share:
        rect.set("fill-opacity", f"{0.08 + 0.92 * share:.3g}")
    if said:  # shown when the mouse is over it
        ET.SubElement(rect, "title").text = said


def _text(svg: ET.Element, x: float, y: float, text: str, kind: str) -> None:
    ET.SubElement(svg, "text", {"class": kind, "x": f"{x:g}", "y": f"{y:g}"}).text = text
