"""Remove blocks from a U-Net according to a BlockPlan.

Everything here is derived from the plan and the teacher's config: the student's config, the weight
map, the feature pairs and what is dropped. Knows diffusers' naming of down, mid and up blocks.
Knows nothing of losses, data or training.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from bksdm.errors import InputError
from bksdm.surgery.plan import BlockPlan

Config = Mapping[str, Any]

# Config entries with one value a stage, outermost first; `up_block_types` has them innermost first.
_PER_STAGE = (
    "down_block_types",
    "block_out_channels",
    "attention_head_dim",
    "num_attention_heads",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "only_cross_attention",
)


def layers_per_stage(config: Config) -> tuple[int, ...]:
    """Numbers of layers of the down stages, outermost first."""
    layers, stages = config["layers_per_block"], len(config["down_block_types"])
    return (layers,) * stages if isinstance(layers, int) else tuple(layers)


def check(plan: BlockPlan, config: Config) -> None:
    """Raise InputError if the plan is not one for a U-Net with this config."""
    layers = layers_per_stage(config)
    if plan.stages > len(layers):
        raise InputError(
            f"the plan keeps {plan.stages} stages, but the teacher's U-Net has {len(layers)}"
        )
    for stage, kept in enumerate(plan.down):
        if kept[-1] >= layers[stage]:
            raise InputError(
                f"the plan keeps layer {kept[-1]} of down stage {stage}, but the teacher's U-Net"
                f" has {layers[stage]} layers there (0 to {layers[stage] - 1})"
            )
    if plan.mid and not config.get("mid_block_type", "UNetMidBlock2DCrossAttn"):
        raise InputError(
            "the plan keeps the mid block, but the teacher's U-Net has none; use student.mid=false"
        )
    channels = config["block_out_channels"]
    if plan.mid and channels[plan.stages - 1] != channels[-1]:
        raise InputError(
            f"the plan keeps the mid block ({channels[-1]} channels) behind a stage of"
            f" {channels[plan.stages - 1]}; use student.mid=false, or keep the innermost stage"
        )
    if channels[plan.stages - 1] != channels[min(plan.stages, len(layers) - 1)]:
        raise InputError(
            f"stage {plan.stages} ({channels[plan.stages]} channels) cannot go from behind one of "
            f"{channels[plan.stages - 1]}; only stages of equal channels can go"
        )
    if config.get("reverse_transformer_layers_per_block"):
        raise InputError(
            "a U-Net with reverse_transformer_layers_per_block is not symmetric: no block plan"
            " fits it"
        )


def student_config(config: Config, plan: BlockPlan) -> dict[str, Any]:
    """The diffusers config of the student of a teacher with this config.

    Raises:
        InputError: the plan is not one for this teacher.
    """
    check(plan, config)
    stages = len(config["down_block_types"])
    result = {name: value for name, value in config.items() if not name.startswith("_")}
    for name in _PER_STAGE:
        value = result.get(name)
        if isinstance(value, list | tuple) and len(value) == stages:
            result[name] = list(value[: plan.stages])
    result["up_block_types"] = list(config["up_block_types"][stages - plan.stages :])
    kept = [len(layers) for layers in plan.down]
    result["layers_per_block"] = kept[0] if len(set(kept)) == 1 else kept
    if not plan.mid:
        result["mid_block_type"] = None
    return result


def teacher_name(name: str, plan: BlockPlan, config: Config) -> str:
    """The teacher's name of a student module or tensor."""
    layers = layers_per_stage(config)

    def down(match: re.Match[str]) -> str:
        stage, kind, layer = int(match[1]), match[2], int(match[3])
        return f"down_blocks.{stage}.{kind}.{plan.down[stage][layer]}"

    def up(match: re.Match[str]) -> str:
        position, kind, layer = int(match[1]), match[2], int(match[3])
        stage = plan.stages - 1 - position
        kept = plan.up(stage, layers=layers[stage])
        return f"up_blocks.{position}.{kind}.{kept[layer]}"

    name = re.sub(r"^down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)", down, name)
    name = re.sub(r"^up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)", up, name)
    # Removed innermost stages come first among the up blocks, so the rest moves to the front.
    shift = len(layers) - plan.stages
    return re.sub(r"^up_blocks\.(\d+)", lambda match: f"up_blocks.{int(match[1]) + shift}", name)


def weight_map(
    teacher: nn.Module, student: nn.Module, *, plan: BlockPlan, config: Config
) -> dict[str, str]:
    """Student tensor name -> teacher tensor name, for every tensor of the student.

    Raises:
        InputError: a student tensor has no teacher tensor of the same shape; the plan is for
            another U-Net.
    """
    source = teacher.state_dict()
    result = {name: teacher_name(name, plan, config) for name in student.state_dict()}
    for name, tensor in student.state_dict().items():
        found = source.get(result[name])
        if found is None or found.shape != tensor.shape:
            shape = None if found is None else tuple(found.shape)
            raise InputError(
                f"student tensor {name} {tuple(tensor.shape)} has no source in the teacher "
                f"({result[name]}: {shape}); is the plan for another U-Net?"
            )
    return result


def empty_student(config: Config, plan: BlockPlan) -> UNet2DConditionModel:
    """A student with fresh weights, on the default device, for a teacher with this config."""
    student: UNet2DConditionModel = UNet2DConditionModel.from_config(student_config(config, plan))
    return student


def remove_blocks(teacher: UNet2DConditionModel, *, plan: BlockPlan) -> UNet2DConditionModel:
    """The student: a new U-Net with the plan's blocks and the teacher's weights. The teacher is
    left as it is.
    """
    with torch.device(teacher.device):
        student = empty_student(teacher.config, plan)
    if student.dtype != teacher.dtype:
        student = student.to(teacher.dtype)
    source = teacher.state_dict()
    names = weight_map(teacher, student, plan=plan, config=teacher.config)
    student.load_state_dict({name: source[origin] for name, origin in names.items()})
    return student


def dropped_modules(teacher: nn.Module, weights: Mapping[str, str]) -> list[str]:
    """The teacher's modules of which nothing stays, each named by its outermost such module, in the
    teacher's order.
    """
    kept = set(weights.values())
    lost = {name for name in teacher.state_dict() if name not in kept}
    result: list[str] = []
    for name, module in teacher.named_modules():
        tensors = [f"{name}.{tensor}" for tensor in module.state_dict()]
        if not name or not tensors or any(name.startswith(f"{outer}.") for outer in result):
            continue
        # A list of which everything goes is named by its blocks; a block is what the plan speaks
        # of.
        if lost.issuperset(tensors) and not isinstance(module, nn.ModuleList):
            result.append(name)
    return result


def feature_pairs(plan: BlockPlan, config: Config) -> list[tuple[str, str]]:
    """(teacher module, student module) whose outputs are compared: the stages that stay, down then
    up (BK-SDM, eq. 5).

    The mid block is never compared, as published. Where removal of the stages behind it makes a
    down stage the innermost and takes its downsampler, the output of that stage has another size;
    its last layer is compared instead: the transformer's `proj_out`, before the residual addition,
    as in the published Tiny (or the resnet, if there is none).
    """
    shift = len(config["down_block_types"]) - plan.stages
    pairs = []
    for stage, kept in enumerate(plan.down):
        name = f"down_blocks.{stage}"
        if shift and stage == plan.stages - 1:
            attends = "CrossAttn" in config["down_block_types"][stage]
            inner = "{}.attentions.{}.proj_out" if attends else "{}.resnets.{}"
            last = layers_per_stage(config)[stage] - 1
            pairs.append((inner.format(name, last), inner.format(name, len(kept) - 1)))
        else:
            pairs.append((name, name))
    return pairs + [(f"up_blocks.{i + shift}", f"up_blocks.{i}") for i in range(plan.stages)]
