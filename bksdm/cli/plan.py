"""bksdm plan."""

import json
from dataclasses import asdict

import torch
from diffusers import UNet2DConditionModel
from omegaconf import DictConfig

from bksdm.cli.config import built
from bksdm.errors import InputError
from bksdm.evaluation.report import table
from bksdm.models.cost import Cost, unet_cost
from bksdm.models.source import TeacherSource, text_tokens, unet_config
from bksdm.surgery.blocks import (
    dropped_modules,
    empty_student,
    feature_pairs,
    student_config,
    weight_map,
)
from bksdm.surgery.drawing import drawing
from bksdm.surgery.plan import BlockPlan


def run(config: DictConfig) -> int:
    """Print the plan; needs no weights."""
    if config.format not in ("text", "json"):
        raise InputError(f"format={config.format}: expected text or json")
    source, plan = built(config.teacher, TeacherSource), built(config.student, BlockPlan)
    teacher_config = unet_config(source)
    small_config = student_config(teacher_config, plan)
    with torch.device("meta"):
        teacher = UNet2DConditionModel.from_config(teacher_config)
        student = empty_student(teacher_config, plan)
    weights = weight_map(teacher, student, plan=plan, config=teacher_config)
    dropped, pairs = dropped_modules(teacher, weights), feature_pairs(plan, teacher_config)
    tokens = text_tokens(source)
    costs = unet_cost(teacher_config, tokens=tokens), unet_cost(small_config, tokens=tokens)
    if config.format == "json":
        sides = [
            asdict(cost) | {"config": values}
            for cost, values in zip(costs, (teacher_config, small_config), strict=True)
        ]
        content = {"weights": weights, "dropped": dropped, "feature_pairs": pairs}
        print(json.dumps({"teacher": sides[0], "student": sides[1]} | content, indent=1))
        return 0
    print(drawing(teacher_config, plan))
    print(f"\ndropped: {', '.join(dropped) or 'nothing'}")
    print(
        "\nfeature pairs (teacher = student): "
        + ", ".join(a if a == b else f"{a} = {b}" for a, b in pairs)
    )
    print(f"\n{_cost_table(source.name, *costs)}")
    return 0


def _cost_table(name: str, teacher: Cost, student: Cost) -> str:
    rows = []
    for field, label in [
        ("parameters", "U-Net parameters"),
        ("macs", "MACs of one call, with attention products"),
        ("macs_published", "MACs as the paper counts"),
    ]:
        whole, part = getattr(teacher, field), getattr(student, field)
        rows.append([label, f"{whole:,}", f"{part:,}", f"{100 * (part / whole - 1):+.1f} %"])
    return table(rows, header=["", f"teacher {name}", "student", ""])
