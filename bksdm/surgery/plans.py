"""Any plan: what the code after the decision asks of it, whichever kind it is."""

import json
from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from torch import nn

from bksdm.surgery import blocks, drawing, narrow, shares
from bksdm.surgery.plan import BlockPlan
from bksdm.surgery.width import WidthPlan

Plan = BlockPlan | WidthPlan
Config = Mapping[str, Any]
Names = dict[str, str]


def kind_of(values: Mapping[str, Any]) -> type[BlockPlan] | type[WidthPlan]:
    """The class of the plan that has these fields."""
    return WidthPlan if "kept" in values else BlockPlan


def from_values(values: Mapping[str, Any]) -> Plan:
    """The plan that has these fields; what else is among them is passed over.

    Raises:
        InputError: they are no plan.
        KeyError: one is missing.
    """
    if "kept" in values:
        return WidthPlan(kept=values["kept"], dropped=values["dropped"])
    return BlockPlan(down=values["down"], mid=values["mid"])


def from_json(text: str) -> Plan:
    """The plan that a plan's `to_json` wrote."""
    return from_values(json.loads(text))


def cut(teacher: UNet2DConditionModel, plan: Plan) -> UNet2DConditionModel:
    """The student: a new U-Net with what stays, and the teacher's weights.

    Raises:
        InputError: the plan is not one for this teacher.
    """
    if isinstance(plan, WidthPlan):
        return narrow.narrow(teacher, plan)
    return blocks.remove_blocks(teacher, plan=plan)


def empty(config: Config, plan: Plan) -> UNet2DConditionModel:
    """The student's shape with fresh weights, on the default device, for a teacher with this
    config.

    Raises:
        InputError: the plan is not one for this teacher.
    """
    if isinstance(plan, WidthPlan):
        return narrow.empty_narrow(config, plan)
    return blocks.empty_student(config, plan)


def rebuilt(student_config: Config, plan: Plan) -> UNet2DConditionModel:
    """The same from the student's own config (see `student_config`)."""
    if isinstance(plan, WidthPlan):
        return narrow.empty_narrow(student_config, plan)
    student: UNet2DConditionModel = UNet2DConditionModel.from_config(dict(student_config))
    return student


def weight_map(teacher: nn.Module, student: nn.Module, config: Config, plan: Plan) -> Names:
    """Student tensor name -> name of the teacher tensor that it is, or is cut out of.

    Raises:
        InputError: the plan is for another U-Net.
    """
    if isinstance(plan, WidthPlan):
        return {name: name for name in student.state_dict()}
    return blocks.weight_map(teacher, student, plan=plan, config=config)


def teacher_name(name: str, config: Config, plan: Plan) -> str:
    """The teacher's name of a student module or tensor."""
    return name if isinstance(plan, WidthPlan) else blocks.teacher_name(name, plan, config)


def drawn(config: Config, plan: Plan) -> str:
    """The plan as text, a line a stage.

    Raises:
        InputError: the plan is not one for a teacher with this config.
    """
    if isinstance(plan, WidthPlan):
        return shares.table_of(config, plan)
    return drawing.drawing(config, plan)


def keeps_mid(plan: Plan) -> bool:
    """Whether the mid block stays, where the teacher has one."""
    return isinstance(plan, WidthPlan) or plan.mid


def student_config(config: Config, plan: Plan) -> dict[str, Any]:
    """The diffusers config of the student; that of a narrow one is its teacher's, which alone does
    not say how narrow it is.

    Raises:
        InputError: the plan is not one for this teacher.
    """
    if isinstance(plan, WidthPlan):
        return {name: value for name, value in config.items() if not name.startswith("_")}
    return blocks.student_config(config, plan)


def feature_pairs(config: Config, plan: Plan) -> list[tuple[str, str]]:
    """(teacher module, student module) whose outputs are compared: the stages that stay."""
    if isinstance(plan, WidthPlan):
        plan = BlockPlan(
            down=tuple(tuple(range(count)) for count in blocks.layers_per_stage(config)),
            mid=bool(config.get("mid_block_type", "UNetMidBlock2DCrossAttn")),
        )
    return blocks.feature_pairs(plan, config)


def stages(config: Config, plan: Plan) -> int:
    """How many stages halve the latents but for the last."""
    if isinstance(plan, WidthPlan):
        return len(config["down_block_types"])
    return plan.stages
