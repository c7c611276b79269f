"""Models named on the command line: a run, a diffusers folder, a repository on the Hub, or an
embedded teacher.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from diffusers import StableDiffusionPipeline

from bksdm.errors import InputError
from bksdm.evaluation.routing.analysis import read_analysis
from bksdm.export.about import ABOUT, about_folder
from bksdm.export.mixture_folder import ANALYSIS, is_mixture
from bksdm.export.pipeline import SAMPLING, folder_guidance, load_pipeline
from bksdm.models.address import HubAddress, hub_address
from bksdm.models.hub import hub_file
from bksdm.models.source import TeacherSource, embedded_folder, unet_config
from bksdm.surgery.plans import Plan
from bksdm.training.folder import RunFolder

EMBEDDED: Final = "shapes"
_POINTS: Final = 300  # of a curve


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model to look at.

    Attributes:
        name: as it is shown.
        load: reads it, in fp32 on the CPU; several large models need not be in memory at once.
        place: where it comes from.
        plan: what it kept of its teacher: a plan's values, and the teacher's U-Net config
            under "teacher"; None where that is not known.
        curves: of its training, by name: [step, value] pairs.
        routing: of a mixture what its router does, as plain values, if its folder says.
    """

    name: str
    load: Callable[[], StableDiffusionPipeline]
    place: str
    plan: Mapping[str, Any] | None = None
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    routing: Mapping[str, Any] | None = None


def named_pipeline(name: str) -> StableDiffusionPipeline:
    """The pipeline that a name stands for.

    Raises:
        InputError: nothing there.
    """
    return _loaded(location(name))


def _loaded(place: Path | HubAddress) -> StableDiffusionPipeline:
    if isinstance(place, HubAddress):
        return load_pipeline(place.repository, revision=place.revision)
    return load_pipeline(place)


def location(name: str) -> Path | HubAddress:
    """The diffusers folder or the repository that a name stands for.

    Raises:
        InputError: no such folder.
    """
    if name == EMBEDDED:
        return embedded_folder(EMBEDDED)
    if (address := hub_address(name)) is not None:
        return address
    folder = RunFolder(Path(name))
    if folder.config.exists():
        if folder.routing.exists():
            raise InputError(
                f"run {name} is of `bksdm route` and draws nothing itself; train its experts: bksdm"
                f" train student=expert plan={folder.path / 'experts' / '0'}"
            )
        if not folder.student.exists():
            raise InputError(
                f"run {name} has no student yet; finish it, or use `bksdm export run={name}`"
            )
        return folder.student
    if folder.path.exists():
        return folder.path
    if not _may_be_hub_id(name):
        raise InputError(
            f"model {name}: nothing there; expected a run, a diffusers folder or a Hub id"
            " (hf://owner/name@revision)"
        )
    return HubAddress(name)


def _may_be_hub_id(name: str) -> bool:
    """False for what can only be a path, or is most likely one that is misspelt."""
    owner, *rest = Path(name).parts
    return name[:1] not in (".", "/", "~") and (
        not rest or (len(rest) == 1 and not Path(owner).is_dir())
    )


def guidance_of(name: str) -> float | None:
    """The guidance scale that suits a model by its own word: that of the sample grids of its run,
    or what its folder or its repository on the Hub says; None where that says nothing.

    Raises:
        InputError: no such folder, or what it says is no number.
    """
    folder = RunFolder(Path(name))
    if folder.config.exists() and (found := folder.guidance()) is not None:
        return found
    return folder_guidance(_folder_with(SAMPLING, location(name)))


def _folder_with(file: str, place: Path | HubAddress) -> Path:
    """The folder itself, or the cache's with the repository's file; nowhere if it has none."""
    if isinstance(place, Path):
        return place
    try:
        of = f"model {place.repository}"
        return hub_file(place.repository, file, revision=place.revision, of=of).parent
    except InputError:
        # Also where the Hub cannot be asked: a model that is in the cache is usable all the same,
        # and whoever loads one that is not is told.
        return Path(place.repository)


def named_model(name: str) -> NamedModel:
    """The model, with what its run tells of it.

    Raises:
        InputError: nothing there.
    """
    place = location(name)
    load = partial(_loaded, place)
    folder = RunFolder(Path(name))
    if not folder.config.exists():
        about = about_folder(_folder_with(ABOUT, place))
        kept = None if about is None else {**about.plan, "teacher": about.teacher["unet"]}
        return NamedModel(
            name=name, load=load, place=str(place), plan=kept, routing=_routing(place)
        )
    return NamedModel(
        name=name,
        load=load,
        place=str(place),
        plan=plan_values(folder.plan(), unet_config(folder.teacher())),
        curves=curves(folder.metrics),
    )


def _routing(place: Path | HubAddress) -> dict[str, Any] | None:
    if not isinstance(place, Path) or not is_mixture(place) or not (place / ANALYSIS).exists():
        return None
    return read_analysis(place / ANALYSIS).values()


def plan_values(plan: Plan, teacher: Mapping[str, Any]) -> dict[str, Any]:
    """A plan beside its teacher's U-Net config, as plain values."""
    # Underscores: versions, and the path that it was loaded from.
    config = {name: value for name, value in teacher.items() if name[0] != "_"}
    return asdict(plan) | {"teacher": config}


def teacher_source(name: str) -> TeacherSource | None:
    """Where the teacher of the run in that folder comes from; None where there is no run."""
    folder = RunFolder(Path(name))
    return folder.teacher() if folder.config.exists() else None


def teacher_of(name: str, source: TeacherSource) -> NamedModel:
    """The teacher of a run.

    Raises:
        InputError: it is not there any more.
    """
    if source.weights == "random":
        raise InputError(
            f"run {name} was a dry run on a teacher with random weights; use baseline=null, or name"
            " another"
        )
    return NamedModel(
        name=source.name,
        load=partial(load_pipeline, source.location, revision=source.revision),
        place=str(source.location),
    )


def curves(metrics: Path) -> dict[str, list[list[float]]]:
    """Losses by step of a run's metrics.csv, thinned out evenly from the first to the last; empty
    where there is none.
    """
    if not metrics.exists():
        return {}
    # Of a run that is going on, the last row may be cut anywhere, also within a number.
    whole, end, _ = metrics.read_text().rpartition("\n")
    found: dict[str, list[list[float]]] = defaultdict(list)
    for row in csv.DictReader(io.StringIO(whole + end)):
        for name, value in row.items():
            if value and name.partition("/")[2].endswith("loss"):
                found[name].append([float(row["step"]), float(value)])
    return {name: _thinned(pairs) for name, pairs in found.items()}


def _thinned(pairs: list[list[float]]) -> list[list[float]]:
    kept = np.linspace(0, len(pairs) - 1, min(len(pairs), _POINTS)).round().astype(int)
    return [pairs[i] for i in kept]
