"""What follows the training of a router: plans, samples of each expert, and the router itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bksdm.atomic import replacing
from bksdm.cli.expert import SAMPLES
from bksdm.data.captions import BAD, Captions
from bksdm.data.datamodule import ShardDataModule
from bksdm.data.selection import Selection
from bksdm.evaluation.report import table
from bksdm.export.narrow import write_plan
from bksdm.export.router import SavedRouter, write_router
from bksdm.export.whole import replace_folder, scratch_folder
from bksdm.gates.deploy import mean_macs
from bksdm.gates.mixture import Mixture, deployed
from bksdm.models.cost import parameter_count
from bksdm.surgery.narrow import empty_narrow
from bksdm.surgery.width import WidthPlan, plan_of
from bksdm.training.folder import RunFolder
from bksdm.training.routing import Routing


@dataclass(frozen=True)
class Routed:
    """What is left to do when a router is trained."""

    module: Routing
    captions: Captions
    checkpoint: Path
    encoder: Mapping[str, Any]  # settings
    data: ShardDataModule


def write_routed(folder: RunFolder, rest: Routed) -> str:
    """Route the training captions and write all that comes of it; returns what to tell.

    A code to which no caption goes has no folder, and the router never chooses it.
    """
    module, captions = rest.module, rest.captions
    settings, budget = module.settings, module.budget
    mixture = deployed(
        module.router.eval(),
        module.encoder,
        captions,
        balance=settings.balance,
        target=settings.target * budget.total if settings.meet_budget else None,
        same_size=settings.same_size,
        budget=budget,
    )
    plans = [plan_of(gates, budget.sites) for gates in mixture.gates]
    experts = folder.path / "experts"
    names: list[str | None] = []
    with scratch_folder(experts, "tmp") as new:
        for code, plan in enumerate(plans):
            mine = np.flatnonzero(mixture.routes == code)
            names.append(f"experts/{code}" if len(mine) else None)
            if len(mine):
                own = new / str(code)
                own.mkdir()
                write_plan(own, plan)
                Selection(mine, captions.index).write(own / SAMPLES)
        replace_folder(experts, new)  # those of a run that was shorter go
    saved = SavedRouter(
        router=mixture.router,
        encoder={**module.encoder.identity, "settings": dict(rest.encoder)},
        teacher=module.teacher.source.identity,
        plans=tuple(names),
    )
    write_router(folder.router, saved)
    found = _told(module, mixture, plans, names)
    with replacing(folder.routing) as temporary:  # last: it says that the run is finished
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    return _table(found) + f"\nrouter: {folder.router}\nexperts: {experts}"


def _told(
    module: Routing, mixture: Mixture, plans: list[WidthPlan], names: list[str | None]
) -> dict[str, Any]:
    budget, config = module.budget, module.teacher.unet.config
    counts, shares = mixture.counts, mixture.shares
    macs = budget.macs(mixture.gates)
    experts = []
    for code, plan in enumerate(plans):
        with torch.device("meta"):
            parameters = parameter_count(empty_narrow(config, plan))
        experts.append(
            {
                "expert": code,
                "folder": names[code],
                "samples": int(counts[code]),
                "share": float(shares[code]),
                "macs": float(macs[code]),
                "macs_share": float(macs[code]) / budget.total,
                "parameters": parameters,
                "modules_dropped": len(plan.dropped),
            }
        )
    return {
        "counting": module.settings.counting,
        "target": module.settings.target,
        "mean": mean_macs(mixture.gates, shares, budget) / budget.total,
        "teacher": {"macs": budget.total, "parameters": parameter_count(module.teacher.unet)},
        "samples_without_caption": int((mixture.routes == BAD).sum()),
        "experts": experts,
    }


def _table(found: dict[str, Any]) -> str:
    rows = [
        [
            str(each["expert"]),
            f"{each['samples']:,}",
            f"{each['share']:.1%}",
            f"{each['macs'] / 1e9:,.4g}",
            f"{each['macs_share']:.1%}",
            f"{each['parameters']:,}",
        ]
        for each in found["experts"]
    ]
    teacher = found["teacher"]
    whole = [f"{teacher['macs'] / 1e9:,.4g}", "", f"{teacher['parameters']:,}"]
    rows.append(["teacher", "", "", *whole])
    empty = [str(each["expert"]) for each in found["experts"] if each["folder"] is None]
    lines = [
        table(rows, header=["expert", "prompts", "share", "GMACs", "of teacher", "parameters"]),
        f"mean over the training prompts: {found['mean']:.2%} of the teacher's MACs"
        f" ({found['counting']} counting), target {found['target']:.2%}",
    ]
    if empty:
        lines.append(f"no prompt goes to {', '.join(empty)}: no plan, and the router never will")
    bad = found["samples_without_caption"]
    if bad:
        lines.append(f"left out, as their captions cannot be read: {bad:,} samples")
    return "\n".join(lines)
