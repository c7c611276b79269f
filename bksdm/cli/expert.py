"""`student=expert plan=FOLDER`: the plan that a router has made, and the samples that it gets."""

import json
from pathlib import Path
from typing import Final

from omegaconf import DictConfig, OmegaConf

from bksdm.cli.config import built
from bksdm.cli.naming import EXPERT
from bksdm.errors import InputError
from bksdm.export.narrow import PLAN, read_plan
from bksdm.surgery.plans import Plan, kind_of

SAMPLES: Final = "samples.npz"  # beside a plan: what is routed to its expert
_WHERE: Final = "a folder of `bksdm route`, such as plan=runs/ROUTE/experts/0"


def settled(config: DictConfig) -> DictConfig:
    """The settings with the plan of `plan=` in `student`, and the samples beside it in
    `data.selection` unless that says something; the same config for every other student.

    Raises:
        InputError: there is a plan without such a student, such a student without a plan, or no
            plan where it should be.
    """
    path, expert = config.get("plan"), "kept" in config.student
    if not expert:
        if path is not None:
            raise InputError(
                f"plan={path}: only student={EXPERT} takes a plan; leave it out, or choose that"
            )
        return config
    if config.student.kept is not None:  # a run's own settings, which came with it
        return config
    if path is None:
        raise InputError(f"student={EXPERT}: plan= is missing; expected {_WHERE}")
    given = Path(str(path)).expanduser()
    file = given / PLAN if given.is_dir() else given
    if not file.is_file():
        raise InputError(f"plan={path}: no {PLAN} there; expected {_WHERE}")
    values, result = json.loads(read_plan(file).to_json()), config.copy()
    for name, value in values.items():
        OmegaConf.update(result, f"student.{name}", value, merge=False, force_add=True)
    beside = file.with_name(SAMPLES)
    if "data" in result and result.data.get("selection") is None and beside.is_file():
        OmegaConf.update(result, "data.selection", str(beside), force_add=True)
    return result


def student_plan(config: DictConfig) -> Plan:
    """What stays of the teacher.

    Raises:
        InputError: the settings are no plan.
    """
    return built(config.student, kind_of(config.student))
