"""A U-Net drawn as SVG: down stages to the left, up stages to the right, what was dropped as
dashed outlines.

The text drawing of `surgery.drawing` stands beside it for those who do not see it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree as ET

from markupsafe import Markup

from bksdm.errors import InputError
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.results import ModelResult
from bksdm.surgery.blocks import layers_per_stage
from bksdm.surgery.drawing import drawing
from bksdm.surgery.plan import BlockPlan, identity

# All in px of the drawing.
_CELL, _UNIT_GAP, _INDENT = 16, 5, 7
_ROW, _TOP, _WIDTH = 32, 22, 344


@dataclass(frozen=True)
class Layer:
    """A resnet, with attention or without, that stays or goes."""

    parts: str  # "R", "RA", or the mid block's "RAR"
    kept: bool


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


@dataclass(frozen=True)
class UnetDrawing:
    """What the page shows of a model's U-Net.

    Attributes:
        svg: the drawing.
        dropped: what went, in words.
        text: the drawing as text.
    """

    svg: Markup
    dropped: str
    text: str


def unet_drawing(model: Model, result: ModelResult) -> UnetDrawing | None:
    """From the plan and its teacher's config, else the model's own U-Net, whole; None if neither is
    known or no block plan fits.
    """
    try:
        config, plan = _plan(result)
        text = drawing(config, plan)
    except (InputError, KeyError, TypeError):
        return None
    stages, mid = stages_of(config, plan), _mid(config, plan)
    dropped = dropped_words(stages, mid)
    return UnetDrawing(_svg(model, stages, mid, f"{model.label}: {dropped}"), dropped, text)


def _plan(result: ModelResult) -> tuple[Mapping[str, Any], BlockPlan]:
    if result.plan is not None:
        return result.plan["teacher"], BlockPlan(down=result.plan["down"], mid=result.plan["mid"])
    config = result.unet
    whole = identity(layers_per_stage(config))
    return config, replace(whole, mid=bool(config.get("mid_block_type", True)))


def stages_of(config: Mapping[str, Any], plan: BlockPlan) -> list[Stage]:
    """The teacher's stages, outermost first, and what the plan keeps of them."""
    layers = layers_per_stage(config)
    result = []
    for stage, count in enumerate(layers):
        down = plan.down[stage] if stage < plan.stages else ()
        up = plan.up(stage, layers=count) if stage < plan.stages else ()
        attends = "CrossAttn" in config["down_block_types"][stage]
        attends_up = "CrossAttn" in config["up_block_types"][len(layers) - 1 - stage]
        result.append(
            Stage(
                tuple(Layer("RA" if attends else "R", i in down) for i in range(count)),
                tuple(Layer("RA" if attends_up else "R", i in up) for i in range(count + 1)),
                config["block_out_channels"][stage],
                config["sample_size"] // 2**stage,
            )
        )
    return result


def _mid(config: Mapping[str, Any], plan: BlockPlan) -> Layer | None:
    return Layer("RAR", plan.mid) if config.get("mid_block_type", True) else None


def dropped_words(stages: list[Stage], mid: Layer | None) -> str:
    """What went, counted."""
    layers = [layer for stage in stages for layer in (*stage.down, *stage.up)]
    lost = [layer for layer in layers if not layer.kept]
    if not lost and (mid is None or mid.kept):
        return "keeps every block"
    parts = [
        f"{sum(part in layer.parts for layer in lost)} of"
        f" {sum(part in layer.parts for layer in layers)} {name}"
        for part, name in (("R", "resnets"), ("A", "attentions"))
    ]
    if mid is not None and not mid.kept:
        parts.append("the mid block")
    gone = sum(not any(layer.kept for layer in stage.down) for stage in stages)
    whole = f"; {gone} innermost stage{'s are' if gone > 1 else ' is'} gone whole" * bool(gone)
    return f"drops {', '.join(parts[:-1])} and {parts[-1]}{whole}"


def _svg(model: Model, stages: list[Stage], mid: Layer | None, words: str) -> Markup:
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
        kind = "kept" if layer.kept else "dropped"
        at = x + i * _CELL
        ET.SubElement(
            svg,
            "rect",
            {
                "class": kind,
                "x": f"{at + 0.75:g}",
                "y": f"{y + 0.75:g}",
                "width": str(_CELL - 1.5),
                "height": str(_CELL - 1.5),
                "rx": "7" if part == "A" else "1.5",
            },
        )
        _text(svg, at + _CELL / 2, y + 11.8, part, f"part {kind}")


def _text(svg: ET.Element, x: float, y: float, text: str, kind: str) -> None:
    ET.SubElement(svg, "text", {"class": kind, "x": f"{x:g}", "y": f"{y:g}"}).text = text
