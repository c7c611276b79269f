"""The SVG of a U-Net's stages."""

from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

from bksdm.evaluation.page.models import Model

# All in px of the drawing.
_CELL, _UNIT_GAP, _INDENT = 16, 5, 7
_ROW, _TOP, _WIDTH = 32, 22, 344


@dataclass(frozen=True)
class Layer:
    """A resnet, with attention or without, that stays or goes.

    Attributes:
        parts: "R", "RA", or the mid block's "RAR".
        kept: whether anything of it stays.
        shares: what stays of each part, in [0, 1]; empty: all of it, or nothing.
    """

    parts: str
    kept: bool
    shares: tuple[float, ...] = ()

    def share(self, part: int) -> float:
        """What stays of a part."""
        return self.shares[part] if self.shares else float(self.kept)


@dataclass(frozen=True)
class Stage:
    """A stage of both halves.

    Attributes:
        down: layers in the order of the forward.
        up: the same of its up half.
        channels: of its output.
        size: side of its latents.
    """

    down: tuple[Layer, ...]
    up: tuple[Layer, ...]
    channels: int
    size: int


def unet_svg(model: Model, stages: list[Stage], mid: Layer | None, words: str) -> Markup:
    """Down stages to the left, up stages to the right; `words` for those who do not see it."""
    name = f"unet-{model.place}"
    height = _TOP + _ROW * (len(stages) + (mid is not None)) - 8
    svg = ET.Element(
        "svg",
        {
            "class": "unet",
            "viewBox": f"0 0 {_WIDTH} {height}",
            "width": str(_WIDTH),
            "height": str(height),
            "role": "img",
            "aria-labelledby": f"{name}-title",
            "style": f"--model: var(--m{model.colour})",
        },
    )
    ET.SubElement(svg, "title", {"id": f"{name}-title"}).text = f"U-Net of {words}"
    _text(svg, 0, 10, "down", "side")
    _text(svg, _WIDTH, 10, "up", "side end")
    for i, stage in enumerate(stages):
        _stage(svg, stage, left=i * _INDENT, top=_TOP + i * _ROW)
    if mid is not None:
        width = _layer_width(mid)
        top = _TOP + len(stages) * _ROW
        _layer(svg, mid, (_WIDTH - width) / 2, top)
        _text(svg, (_WIDTH - width) / 2 - 6, top + 12, "mid", "side end")
    return Markup(ET.tostring(svg, encoding="unicode"))


def _stage(svg: ET.Element, stage: Stage, *, left: float, top: float) -> None:
    x = left
    for layer in stage.down:
        _layer(svg, layer, x, top)
        x += _layer_width(layer) + _UNIT_GAP
    end = x
    x = _WIDTH - left - sum(_layer_width(layer) + _UNIT_GAP for layer in stage.up) + _UNIT_GAP
    begin = x
    for layer in stage.up:
        _layer(svg, layer, x, top)
        x += _layer_width(layer) + _UNIT_GAP
    gone = not any(layer.kept for layer in stage.down)
    middle, line = (end + begin - _UNIT_GAP) / 2, top + _CELL / 2
    attributes = {
        "x1": f"{end:g}",
        "x2": f"{begin - _UNIT_GAP:g}",
        "y1": f"{line:g}",
        "y2": f"{line:g}",
    }
    ET.SubElement(svg, "line", {"class": "skip gone" if gone else "skip", **attributes})
    size = f"{stage.size}\N{MULTIPLICATION SIGN}{stage.size}"
    _text(svg, middle, top + 3, f"{stage.channels} at {size}", "place")


def _layer_width(layer: Layer) -> int:
    return _CELL * len(layer.parts)


def _layer(svg: ET.Element, layer: Layer, x: float, y: float) -> None:
    """One cell a part: a resnet is square, an attention round."""
    for i, part in enumerate(layer.parts):
        share = layer.share(i)
        kind = "kept" if share else "dropped"
        at = x + i * _CELL
        full = _CELL - 1.5
        if 0 < share < 1:  # filled from below as far as it stays
            _cell(svg, "dropped", part, at, y, height=full)
        _cell(svg, kind, part, at, y, height=full * (share or 1))
        _text(svg, at + _CELL / 2, y + 11.8, part, f"part {kind}")


def _cell(svg: ET.Element, kind: str, part: str, x: float, y: float, *, height: float) -> None:
    ET.SubElement(
        svg,
        "rect",
        {
            "class": kind,
            "x": f"{x + 0.75:g}",
            "y": f"{y + _CELL - 0.75 - height:g}",
            "width": str(_CELL - 1.5),
            "height": f"{height:g}",
            "rx": "7" if part == "A" else "1.5",
        },
    )


def _text(svg: ET.Element, x: float, y: float, text: str, kind: str) -> None:
    ET.SubElement(svg, "text", {"class": kind, "x": f"{x:g}", "y": f"{y:g}"}).text = text
