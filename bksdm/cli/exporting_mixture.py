"""`bksdm export mixture=runs/ROUTE`: the router and its trained experts as one folder."""

from collections.abc import Collection
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig

from bksdm.cli.expert import SAMPLES
from bksdm.cli.models import guidance_of, location
from bksdm.cli.naming import run_name
from bksdm.data.selection import Selection
from bksdm.errors import InputError
from bksdm.export.mixture import TrainedExpert, export_mixture
from bksdm.export.mixture_folder import ROUTER
from bksdm.export.router import read_router
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import load_teacher
from bksdm.training.folder import RunFolder, value_of


def mix(config: DictConfig) -> int:
    """Write the folder, and say what is in it.

    Raises:
        InputError: there is no such route, or an expert is missing or not its own.
    """
    if config.run is not None or config.checkpoint is not None or config.packed is not None:
        raise InputError(
            "mixture= and run=, checkpoint= or packed= are there; expected one of them"
        )
    if not isinstance(config.out, str) or not config.out:
        raise InputError("out= is missing; expected the folder to write")
    route = Path(str(config.mixture)).expanduser()
    plans = dict(enumerate(read_router(route / ROUTER).plans))
    wanted = {code: route / plan for code, plan in plans.items() if plan is not None}
    names = _runs(config, route, wanted.values())
    teacher = load_teacher(_source(route))
    counts = {code: len(Selection.read(at / SAMPLES).samples) for code, at in wanted.items()}
    experts = [
        TrainedExpert(
            code=code,
            folder=_student(name),
            share=counts[code] / sum(counts.values()),
        )
        for code, name in zip(wanted, names, strict=True)
    ]
    out = Path(config.out).expanduser()
    made = export_mixture(route, experts, teacher, out, guidance=guidance_of(names[0]))
    print(f"mixture: {out} ({len(made.experts)} experts, each reloaded with its weights)")
    for each in made.experts:
        print(
            f"  expert {each.code}: {each.share:.1%} of the prompts, {each.parameters / 1e6:.4g} M"
            f" parameters, {each.macs / 1e9:.4g} GMACs a call, step {each.step:,}"
        )
    print(f"  on average {made.expected('macs') / 1e9:.4g} GMACs a call")
    return 0


def _runs(config: DictConfig, route: Path, plans: Collection[Path]) -> list[str]:
    """The runs of the experts, by code."""
    given = config.experts
    if given is None:
        beside = [run_name("", "expert", str(plan)) for plan in plans]
        return [str(route.parent / name) for name in beside]
    if not isinstance(given, ListConfig) or len(given) != len(plans):
        raise InputError(
            f"experts={given}: expected a list of {len(plans)} runs, one an expert in the order of"
            f" {route / 'experts'}, or null for those beside {route}"
        )
    return [str(name) for name in given]


def _student(name: str) -> Path:
    if not Path(name).exists():
        raise InputError(
            f"expert {name}: no such run; train it (bksdm train student=expert plan=...), or name"
            " another in experts="
        )
    place = location(name)
    if not isinstance(place, Path):
        raise InputError(f"expert {name}: expected a run or a folder here, not on the Hub")
    return place


def _source(route: Path) -> TeacherSource:
    file = RunFolder(route).config
    try:
        return value_of(TeacherSource, yaml.safe_load(file.read_text())["teacher"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(
            f"mixture={route}: no {file.name} of `bksdm route` there; expected its run's folder"
        ) from error
