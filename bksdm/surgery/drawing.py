"""A plan drawn as text: one line a stage, kept layers filled."""

from collections.abc import Mapping
from typing import Any

from bksdm.surgery.blocks import check, layers_per_stage
from bksdm.surgery.plan import BlockPlan

_KEPT, _DROPPED = "#", "."


def drawing(config: Mapping[str, Any], plan: BlockPlan) -> str:
    """Down stages to the left, up stages to the right, the mid block at the bottom; `RA` is a
    resnet with attention.
    """
    check(plan, config)
    layers, size = layers_per_stage(config), config["sample_size"]
    stages = len(layers)
    lines = [
        (
            f"{_KEPT} stays  {_DROPPED} is dropped  (R resnet, RA resnet and attention; channels at"
            " latent size)"
        ),
        "",
    ]
    for stage in range(stages):
        kept_down = plan.down[stage] if stage < plan.stages else ()
        kept_up = plan.up(stage, layers=layers[stage]) if stage < plan.stages else ()
        down_unit = "RA" if "CrossAttn" in config["down_block_types"][stage] else "R"
        up_unit = "RA" if "CrossAttn" in config["up_block_types"][stages - 1 - stage] else "R"
        down = " ".join(_unit(down_unit, layer in kept_down) for layer in range(layers[stage]))
        up = " ".join(_unit(up_unit, layer in kept_up) for layer in range(layers[stage] + 1))
        place = f"{config['block_out_channels'][stage]} at {size // 2**stage}x{size // 2**stage}"
        lines.append(
            f"{'  ' * stage}down {stage}  {down}".ljust(36)
            + place.center(18)
            + f"{up}  up {stages - 1 - stage}".rjust(30 - 2 * stage)
        )
    mid = _unit("R A R", plan.mid) if config.get("mid_block_type", True) else "none in the teacher"
    lines.append(f"{'  ' * stages}mid  {mid}")
    return "\n".join(lines)


def _unit(name: str, kept: bool) -> str:  # noqa: FBT001
    return f"[{_KEPT if kept else _DROPPED} {name}]"
