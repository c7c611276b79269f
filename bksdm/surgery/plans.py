"""Any plan: what the code after the decision asks of it, whichever kind it is."""

import json
from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel

from bksdm.surgery import blocks, narrow
from bksdm.surgery.plan import BlockPlan
from bksdm.surgery.width import WidthPlan

Plan = BlockPlan | WidthPlan


def from_json(text: str) -> Plan:
    """The plan that a plan's `to_json` wrote."""
    kind = WidthPlan if "kept" in json.loads(text) else BlockPlan
    return kind.from_json(text)


def cut(teacher: UNet2DConditionModel, plan: Plan) -> UNet2DConditionModel:
    """The student: a new U-Net with what stays, and the teacher's weights.

    Raises:
        InputError: the plan is not one for this teacher.
    """
    if isinstance(plan, WidthPlan):
        return narrow.narrow(teacher, plan)
    return blocks.remove_blocks(teacher, plan=plan)


def empty(config: Mapping[str, Any], plan: Plan) -> UNet2DConditionModel:
    """The student's shape with fresh weights, on the default device, for a teacher with this
    config.

    Raises:
        InputError: the plan is not one for this teacher.
    """
    if isinstance(plan, WidthPlan):
        return narrow.empty_narrow(config, plan)
    return blocks.empty_student(config, plan)


def student_config(config: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The diffusers config of the student; that of a narrow one is its teacher's, which alone does
    not say how narrow it is.

    Raises:
        InputError: the plan is not one for this teacher.
    """
    if isinstance(plan, WidthPlan):
        return {name: value for name, value in config.items() if not name.startswith("_")}
    return blocks.student_config(config, plan)


def feature_pairs(config: Mapping[str, Any], plan: Plan) -> list[tuple[str, str]]:
    """(teacher module, student module) whose outputs are compared: the stages that stay."""
    if isinstance(plan, WidthPlan):
        plan = BlockPlan(
            down=tuple(tuple(range(count)) for count in blocks.layers_per_stage(config)),
            mid=bool(config.get("mid_block_type", "UNetMidBlock2DCrossAttn")),
        )
    return blocks.feature_pairs(plan, config)


def stages(config: Mapping[str, Any], plan: Plan) -> int:
    """How many stages halve the latents but for the last."""
    if isinstance(plan, WidthPlan):
        return len(config["down_block_types"])
    return plan.stages
