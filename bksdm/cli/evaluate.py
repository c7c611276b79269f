"""bksdm evaluate."""

from collections.abc import Sequence

import torch
from omegaconf import DictConfig, ListConfig

from bksdm.cli.config import built, folder, hydra_flags, plain, task_overrides
from bksdm.cli.evaluating import Plan, evaluate_models
from bksdm.cli.models import NamedModel, named_model, teacher_of, teacher_source
from bksdm.cli.start import start_processes
from bksdm.errors import InputError
from bksdm.evaluation.cost.latency import LatencySettings
from bksdm.evaluation.protocol import Protocol
from bksdm.processes import Process, this_process
from bksdm.training.peers import joined

AUTO = "auto"
_MINUTES = 24 * 60  # that the processes wait for each other: one may have slower pictures


def run(config: DictConfig) -> int:
    """Make the pictures that are missing, measure, compare, print the tables."""
    process, gpus = this_process(), torch.cuda.device_count()
    count = _to_start(config.devices, process, gpus)
    models, compared = _models(config)
    plan = Plan(
        protocol=built(config.protocol, Protocol),
        settings=plain(config)["protocol"],
        root=folder(config, "out"),
        compared=compared,
        latency=built(config.latency, LatencySettings) if config.latency else None,
    )
    if count > 1:
        return start_processes(["evaluate", *hydra_flags(), *task_overrides()], count=count)
    # Gloo, also where there are GPUs: scores are added up on the CPU.
    with joined(process, gpu=False, minutes=_MINUTES) as peers:
        found = evaluate_models(models, plan, peers)
    if process.first:
        print("\n".join(f"results: {one.file}" for one in found))
    return 0


def _to_start(devices: object, process: Process, gpus: int) -> int:
    if process.world > 1:
        return 1
    wanted = gpus or 1 if devices == AUTO else devices
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise InputError(f"devices={devices}: expected a whole number, at least 1, or auto")
    return wanted


def _models(config: DictConfig) -> tuple[list[NamedModel], bool]:
    """The models, after their baseline if there is one."""
    given = config.model if isinstance(config.model, ListConfig) else [config.model]
    if not given or None in given:
        raise InputError(f"model={config.model}: expected the name of at least one")
    names = [_name(each) for each in given]
    models = [named_model(name) for name in dict.fromkeys(names)]
    if config.baseline is None:
        return models, False
    if config.baseline != AUTO:
        return _distinct([named_model(_name(config.baseline)), *models]), True
    teacher = _teacher(names)
    if teacher is None:
        return models, len(models) > 1
    return _distinct([teacher, *models]), True


def _distinct(models: Sequence[NamedModel]) -> list[NamedModel]:
    """Each once, in order."""
    kept: dict[str, NamedModel] = {}
    for model in models:
        other = kept.setdefault(model.name, model)
        if other.place != model.place:
            raise InputError(
                f"two models are called {model.name}: {other.place} and {model.place}; expected one"
                " of that name: give the baseline as baseline=FOLDER"
            )
    return list(kept.values())


def _teacher(names: Sequence[str]) -> NamedModel | None:
    """The one that all runs among the names have."""
    sources = {name: source for name in names if (source := teacher_source(name)) is not None}
    if len({(source.path, source.revision) for source in sources.values()}) > 1:
        told = ", ".join(f"{name}: {source.name}" for name, source in sources.items())
        raise InputError(
            f"baseline=auto: the runs have different teachers ({told}); name one with baseline="
        )
    return teacher_of(*next(iter(sources.items()))) if sources else None


def _name(given: object) -> str:
    return str(given).rstrip("/") or "/"
