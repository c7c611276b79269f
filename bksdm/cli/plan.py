"""bksdm plan."""

import json
from dataclasses import asdict
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from omegaconf import DictConfig

from bksdm.cli.config import built
from bksdm.cli.expert import settled, student_plan
from bksdm.errors import InputError
from bksdm.evaluation.report import table
from bksdm.models.cost import Cost, unet_module_cost
from bksdm.models.source import TeacherSource, text_tokens, unet_config
from bksdm.surgery import plans
from bksdm.surgery.blocks import dropped_modules
from bksdm.surgery.shares import stage_shares
from bksdm.surgery.width import WidthPlan


def run(config: DictConfig) -> int:
    """Print the plan; needs no weights."""
    if config.format not in ("text", "json"):
        raise InputError(f"format={config.format}: expected text or json")
    config = settled(config)
    source, plan = built(config.teacher, TeacherSource), student_plan(config)
    teacher_config = unet_config(source)
    with torch.device("meta"):
        teacher = UNet2DConditionModel.from_config(teacher_config)
        student = plans.empty(teacher_config, plan)
    weights = plans.weight_map(teacher, student, teacher_config, plan)
    dropped, pairs = dropped_modules(teacher, weights), plans.feature_pairs(teacher_config, plan)
    tokens = text_tokens(source)
    costs = [unet_module_cost(each, tokens=tokens).total for each in (teacher, student)]
    small_config = plans.student_config(teacher_config, plan)
    if config.format == "json":
        sides = [
            asdict(cost) | {"config": values}
            for cost, values in zip(costs, (teacher_config, small_config), strict=True)
        ]
        content: dict[str, Any] = {"weights": weights, "dropped": dropped, "feature_pairs": pairs}
        if isinstance(plan, WidthPlan):
            shares = stage_shares(teacher_config, plan)
            content |= {"plan": asdict(plan), "stages": [asdict(each) for each in shares]}
        print(json.dumps({"teacher": sides[0], "student": sides[1]} | content, indent=1))
        return 0
    print(plans.drawn(teacher_config, plan))
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
