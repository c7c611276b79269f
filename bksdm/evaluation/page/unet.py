"""A U-Net drawn as SVG: down stages to the left, up stages to the right, what was dropped as
dashed outlines.

The text drawing of `surgery.drawing` stands beside it for those who do not see it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from bksdm.errors import InputError
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.unet_svg import Layer, Stage, unet_svg
from bksdm.evaluation.results import ModelResult
from bksdm.surgery.blocks import layers_per_stage
from bksdm.surgery.plan import BlockPlan, identity
from bksdm.surgery.plans import Plan, drawn, from_values
from bksdm.surgery.shares import module_shares, stage_shares
from bksdm.surgery.width import WidthPlan


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
        text = drawn(config, plan)
        if isinstance(plan, WidthPlan):
            stages, mid = narrow_stages(config, plan)
            words = narrow_words(config, plan)
        else:
            stages, mid = stages_of(config, plan), _mid(config, plan)
            words = dropped_words(stages, mid)
    except (InputError, KeyError, TypeError):
        return None
    return UnetDrawing(unet_svg(model, stages, mid, f"{model.label}: {words}"), words, text)


def _plan(result: ModelResult) -> tuple[Mapping[str, Any], Plan]:
    if result.plan is not None:
        return result.plan["teacher"], from_values(result.plan)
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


def narrow_stages(config: Mapping[str, Any], plan: WidthPlan) -> tuple[list[Stage], Layer | None]:
    """The teacher's stages, outermost first, and its mid block, with the shares of units that stay.

    Raises:
        InputError: the plan is not one for it.
    """
    whole = identity(layers_per_stage(config))
    mid = bool(config.get("mid_block_type", True))
    shares, stages = module_shares(config, plan), stages_of(config, whole)
    last = len(stages) - 1

    def layer(block: str, place: int, like: Layer) -> Layer:
        names = {"R": "resnets", "A": "attentions"}
        own = tuple(shares[f"{block}.{names[part]}.{place}"] for part in like.parts)
        return Layer(like.parts, any(own), own)

    result = [
        replace(
            stage,
            down=tuple(layer(f"down_blocks.{i}", j, each) for j, each in enumerate(stage.down)),
            up=tuple(layer(f"up_blocks.{last - i}", j, each) for j, each in enumerate(stage.up)),
        )
        for i, stage in enumerate(stages)
    ]
    if not mid:
        return result, None
    own = tuple(shares[f"mid_block.{name}"] for name in ("resnets.0", "attentions.0", "resnets.1"))
    return result, Layer("RAR", kept=True, shares=own)


def narrow_words(config: Mapping[str, Any], plan: WidthPlan) -> str:
    """What stays, counted."""
    stages = stage_shares(config, plan)
    pairs = [pair for stage in stages for pair in stage.units.values()]
    kept, whole = (sum(pair[i] for pair in pairs) for i in (0, 1))
    gone, modules = sum(stage.dropped for stage in stages), sum(stage.modules for stage in stages)
    return f"keeps {kept} of {whole} units, drops {gone} of {modules} modules"


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
