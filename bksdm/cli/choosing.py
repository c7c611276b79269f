"""`bksdm route` with a method that trains nothing: the plan of one architecture."""

import json
from typing import Any

import yaml
from omegaconf import DictConfig

from bksdm.atomic import replacing
from bksdm.cli.config import built, differing_keys, plain, run_path
from bksdm.cli.same_run import FREE
from bksdm.cli.student import whole_resolution
from bksdm.errors import InputError
from bksdm.export.narrow import PLAN
from bksdm.gates.budget import Budget
from bksdm.gates.deploy import ranked_gates
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import load_teacher
from bksdm.surgery.sites import prunable_sites
from bksdm.surgery.width import plan_of
from bksdm.training.folder import RunFolder
from bksdm.training.routing_settings import ChosenSettings, check_target


def choose(config: DictConfig) -> int:
    """Write runs/NAME/experts/0/plan.json; the same command again writes the same.

    Raises:
        InputError: no plan is as cheap, or the folder is of something else.
    """
    method, folder = built(config.method, ChosenSettings), RunFolder(run_path(config))
    with folder.claimed(seconds=0):
        _refuse_others(folder, plain(config))
        return _written(config, method, folder)


def refuse_chosen(folder: RunFolder) -> None:
    """Refuse to train where experts are that no checkpoint could make again.

    Raises:
        InputError: such are there.
    """
    if folder.routing.exists() and not folder.begun:
        raise InputError(
            f"{folder.path} has experts, and no checkpoint to go on from; choose another name=, or"
            " remove it"
        )


def _refuse_others(folder: RunFolder, values: dict[str, Any]) -> None:
    if folder.begun:
        raise InputError(f"{folder.path} is a run that is trained; choose another name=")
    if not folder.config.exists():
        return
    keys = differing_keys(yaml.safe_load(folder.config.read_text()), values, free=FREE)
    if keys:
        raise InputError(
            f"{folder.path} was made with other settings: {', '.join(keys)}; use another name="
        )


def _written(config: DictConfig, method: ChosenSettings, folder: RunFolder) -> int:
    teacher = load_teacher(built(config.teacher, TeacherSource))
    sites = prunable_sites(teacher.unet)
    size = whole_resolution(config, teacher) // teacher.latent_factor
    tokens = teacher.tokenizer.model_max_length
    budget = Budget.of(teacher.unet.config, sites, size, tokens=tokens)
    check_target(method.target, budget, depth=False)
    scores = method.worth.scores(teacher.unet, sites, seed=int(config.seed))
    gates = ranked_gates(scores, budget, target=method.target * budget.total)
    macs = float(budget.macs(gates[None]))
    own = folder.path / "experts" / "0"
    own.mkdir(parents=True, exist_ok=True)
    folder.write_config(yaml.safe_dump(plain(config), sort_keys=False))
    with replacing(own / PLAN) as temporary:
        temporary.write_text(plan_of(gates, sites).to_json() + "\n")
    with replacing(folder.routing) as temporary:
        told = {"target": method.target, "mean": macs / budget.total, "macs": macs}
        temporary.write_text(json.dumps(told, indent=1) + "\n")
    print(
        f"plan: {own / PLAN} ({macs / 1e9:,.4g} GMACs a call, {macs / budget.total:.2%} of the"
        f" teacher's; train it: bksdm train student=expert plan={own})"
    )
    return 0
