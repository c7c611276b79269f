"""bksdm evaluate."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig

from bksdm.cli.config import built, folder, hydra_flags, plain, task_overrides
from bksdm.cli.models import NamedModel, named_model, teacher_of
from bksdm.cli.progress import Progress
from bksdm.cli.start import start_processes
from bksdm.errors import InputError
from bksdm.evaluation.environment import environment
from bksdm.evaluation.evaluate import Baseline, against, evaluate, ready
from bksdm.evaluation.fingerprint import fingerprint, part_hashes
from bksdm.evaluation.gallery import IMAGES, Gallery, gallery_of, prompts_hash
from bksdm.evaluation.image_cost import image_cost, parts_of_pipeline
from bksdm.evaluation.prompts import Prompt
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.report import score_table, verdicts
from bksdm.evaluation.results import RESULTS, ModelResult, write_items, write_results
from bksdm.evaluation.score import Score
from bksdm.processes import Process, this_process
from bksdm.training.peers import Peers, joined

AUTO = "auto"
_MINUTES = 24 * 60  # that the processes wait for each other: one may have slower pictures


@dataclass(frozen=True)
class Evaluated:
    """A model's results, and its pictures, which they lie beside."""

    result: ModelResult
    gallery: Gallery

    @property
    def file(self) -> Path:
        """Its own results file."""
        return self.gallery.folder / RESULTS

    def beside(self, file: Path) -> ModelResult:
        """The result as another file holds it, which finds the pictures from where it lies."""
        images = (self.gallery.folder / IMAGES).relative_to(file.parent)
        return replace(self.result, images=str(images))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is evaluated, how, and where it goes.

    Attributes:
        protocol: what is done.
        settings: the protocol's, as plain values.
        root: folder of all evaluations.
        compared: whether the first model is the one that the others are compared with.
    """

    protocol: Protocol
    settings: Mapping[str, Any]
    root: Path
    compared: bool


def run(config: DictConfig) -> int:
    """Make the pictures that are missing, measure, compare, print the tables."""
    process, gpus = this_process(), torch.cuda.device_count()
    count = _to_start(config.devices, process, gpus)
    if count > 1:
        return start_processes(["evaluate", *hydra_flags(), *task_overrides()], count=count)
    protocol = built(config.protocol, Protocol)
    values = plain(config)["protocol"]
    # Gloo, also where there are GPUs: scores are added up on the CPU.
    with joined(process, gpu=False, minutes=_MINUTES) as peers:
        models, compared = peers.each(lambda: _models(config))
        plan = Plan(
            protocol=protocol, settings=values, root=folder(config, "out"), compared=compared
        )
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
    names = [
        str(name)
        for name in (config.model if isinstance(config.model, ListConfig) else [config.model])
    ]
    if not names:
        raise InputError("model=[]: expected at least one")
    models = [named_model(name) for name in dict.fromkeys(names)]
    if config.baseline is None:
        return models, False
    if config.baseline != AUTO:
        first = str(config.baseline)
        others = [model for model in models if model.name != first]
        found = [model for model in models if model.name == first] or [named_model(first)]
        return found + others, True
    teacher = next((found for found in map(teacher_of, names) if found is not None), None)
    if teacher is None:
        return models, len(models) > 1
    return [teacher, *(model for model in models if model.name != teacher.name)], True


def evaluate_models(models: Sequence[NamedModel], plan: Plan, peers: Peers) -> list[Evaluated]:
    """Evaluate models one after the other, the first as the baseline of the others if they are
    compared, and print the tables; every model's results lie beside its pictures.
    """
    prompts = peers.each(plan.protocol.prompts.read)
    hashes = [part_hashes(model.pipeline) for model in models]  # before anything is cast
    found: list[Evaluated] = []
    baseline: Baseline | None = None
    for model, parts in zip(models, hashes, strict=True):
        one = _evaluated(model, parts, plan, prompts, baseline, peers)
        found.append(one)
        if baseline is None and plan.compared:
            result = one.result
            baseline = Baseline(result.name, result.weights, one.gallery, result.scores)
    if peers.process.first:
        for one in found:
            write_items(one.result.scores, one.gallery.folder)
            write_results([one.result], one.file)
        results = [one.result for one in found]
        print(f"\n{score_table(results)}\n")
        lines = verdicts(results)
        if lines:
            print(f"{lines}\n")
    return found


def _evaluated(
    model: NamedModel,
    parts: dict[str, str],
    plan: Plan,
    prompts: Sequence[Prompt],
    baseline: Baseline | None,
    peers: Peers,
) -> Evaluated:
    process, weights = peers.process, fingerprint(parts)
    gallery = peers.decided(partial(_gallery, model, weights, prompts, plan))
    model.pipeline.to(_device(process))
    made = peers.each(partial(ready, model.pipeline, plan.protocol))
    with Progress(len(prompts), what=model.name, shown=process.first) as progress:
        scores = evaluate(
            made,
            prompts,
            gallery,
            baseline=baseline.gallery if baseline else (gallery if plan.compared else None),
            process=process,
            advance=lambda count: progress.advance(min(count * process.world, progress.left)),
        )
    result = _result(model, scores, parts=parts, prompts=prompts, plan=plan)
    if baseline is not None:
        result = replace(result, against=(against(scores, baseline, plan.protocol),))
    model.pipeline.to("cpu")
    return Evaluated(result, gallery)


def _device(process: Process) -> torch.device:
    gpus = torch.cuda.device_count()  # one, if srun gives each task its own
    return torch.device(f"cuda:{process.local_rank % gpus}") if gpus else torch.device("cpu")


def _gallery(model: NamedModel, weights: str, prompts: Sequence[Prompt], plan: Plan) -> Gallery:
    protocol = plan.protocol
    return gallery_of(
        plan.root / protocol.name,
        name=model.name,
        weights=weights,
        prompts=prompts,
        sampling=protocol.sampling,
        keeping=protocol.keeping,
        latents=protocol.latents,
        settings={name: plan.settings[name] for name in ("sampling", "keeping")},
    )


def _result(
    model: NamedModel,
    scores: Sequence[Score],
    *,
    parts: dict[str, str],
    prompts: Sequence[Prompt],
    plan: Plan,
) -> ModelResult:
    sampling = plan.protocol.sampling
    cost = image_cost(
        parts_of_pipeline(sampling.prepared(model.pipeline)),
        steps=sampling.steps,
        guidance=sampling.guidance,
    )
    unet = {name: value for name, value in model.pipeline.unet.config.items() if name[0] != "_"}
    return ModelResult(
        name=model.name,
        weights=fingerprint(parts),
        protocol={
            "name": plan.protocol.name,
            "decide": plan.protocol.decide,
            "prompts": len(prompts),
            "prompts_sha256": prompts_hash(prompts),
            "settings": plan.settings,
        },
        scores=tuple(scores),
        cost=asdict(cost),
        unet=unet,
        plan=model.plan,
        environment={**environment(model.pipeline.device), "weights": parts},
        images=IMAGES,
        suffix=plan.protocol.keeping.suffix,
        curves=model.curves,
    )
