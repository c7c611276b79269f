"""Models evaluated one after the other, beside the first as their baseline, and timed in turn."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from bksdm.cli.models import NamedModel
from bksdm.cli.progress import Progress
from bksdm.evaluation.cost.image_cost import image_cost, parts_of_pipeline
from bksdm.evaluation.cost.latency import LatencySettings, pipeline_latency
from bksdm.evaluation.differing import write_differing
from bksdm.evaluation.environment import environment
from bksdm.evaluation.evaluate import Baseline, against, evaluate, ready
from bksdm.evaluation.fingerprint import PARTS, fingerprint, part_hashes
from bksdm.evaluation.gallery import IMAGES, Gallery, gallery_of, prompts_hash
from bksdm.evaluation.prompts import Prompt
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.report import LEGEND, cost_table, score_table, verdicts
from bksdm.evaluation.results import RESULTS, ModelResult, with_earlier, write_items, write_results
from bksdm.evaluation.score import Score
from bksdm.export.mixture_pipeline import MixturePipeline
from bksdm.export.pipeline import best_device
from bksdm.processes import Process
from bksdm.training.peers import Peers, lost_told


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
        latency: what is timed in the end; None for nothing.
    """

    protocol: Protocol
    settings: Mapping[str, Any]
    root: Path
    compared: bool
    latency: LatencySettings | None


def evaluate_models(models: Sequence[NamedModel], plan: Plan, peers: Peers) -> list[Evaluated]:
    """Evaluate models one after the other, the first as the baseline of the others if they are
    compared, and print the tables; every model's results lie beside its pictures.
    """
    prompts = peers.each(plan.protocol.prompts.read)
    # All of them first: a model that cannot be read is told at once, and none is cast yet.
    hashes = [peers.decided(partial(_hashes, model)) for model in models]
    found: list[Evaluated] = []
    baseline: Baseline | None = None
    for model, parts in zip(models, hashes, strict=True):
        one = _evaluated(model, parts, plan, prompts, baseline, peers)
        found.append(one)
        if peers.process.first:  # now: another model may fail, or take days
            _write(one)
        if baseline is None and plan.compared:
            result = one.result
            baseline = Baseline(result.name, result.weights, one.gallery, result.scores)
    if peers.process.first:
        found = _timed(found, models, plan)
        for one in found:
            _write(one)
        if baseline is not None:
            _write_sheets(found, prompts, plan.protocol.decide)
        results, width = [one.result for one in found], shutil.get_terminal_size().columns
        tables = [show(results, width=width) for show in (score_table, cost_table, verdicts)]
        print("", *filter(None, [*tables[:2], LEGEND, *tables[2:]]), "", sep="\n\n")
    return found


def _hashes(model: NamedModel) -> dict[str, str]:
    return part_hashes(model.load())


def _write(one: Evaluated) -> None:
    write_items(one.result.scores, one.gallery.folder)
    write_results([with_earlier(one.result, one.file)], one.file)


def _write_sheets(found: Sequence[Evaluated], prompts: Sequence[Prompt], decide: str) -> None:
    """Of each model beside the first."""
    shown = [(one.result.name, one.gallery, one.result.score(decide)) for one in found]
    scored = [(name, gallery, score) for name, gallery, score in shown if score is not None]
    for each in scored[1:]:
        write_differing((scored[0], each), prompts)


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
    pipeline = peers.each(model.load)
    move(pipeline, best_device(process))
    made = peers.each(partial(ready, pipeline, plan.protocol, compared=plan.compared))
    there = sum(gallery.has(prompt) for prompt in prompts) if process.first else 0
    if there:
        print(f"{model.name}: {there} of {len(prompts)} pictures are there", flush=True)
    shown = Progress(len(prompts), what=model.name, shown=process.first)
    with lost_told(), shown as progress:
        scores = evaluate(
            made,
            prompts,
            gallery,
            baseline=baseline.gallery if baseline else (gallery if plan.compared else None),
            process=process,
            advance=lambda count: progress.advance(min(count * process.world, progress.left)),
        )
    result = _result(model, made.pipeline, scores, parts=parts, prompts=prompts, plan=plan)
    if baseline is not None:
        result = replace(result, against=(against(scores, baseline, plan.protocol),))
    move(pipeline, torch.device("cpu"))  # of networks that are in use elsewhere
    return Evaluated(result, gallery)


def _timed(found: Sequence[Evaluated], models: Sequence[NamedModel], plan: Plan) -> list[Evaluated]:
    """With what `plan.latency` asks for, measured in turn, so that ratios are of one run."""
    if plan.latency is None:
        return list(found)
    sampling = plan.protocol.sampling
    pipelines = {model.name: sampling.prepared(model.load()) for model in models}
    for pipeline in pipelines.values():
        move(pipeline, best_device(Process()))
    calls = plan.latency.calls(len(pipelines))
    with Progress(calls, what="timing", unit="call") as progress:
        report = pipeline_latency(
            pipelines, plan.latency, sampling=sampling, advance=progress.advance
        )
    shared = {
        "baseline": models[0].name,
        "machine": asdict(report.machine),
        "settings": asdict(report.settings),
        "sampling": asdict(report.sampling),
    }
    return [
        replace(one, result=replace(one.result, speed={**asdict(times), **shared}))
        for one, times in zip(found, report.models, strict=True)
    ]


def move(pipeline: StableDiffusionPipeline, device: torch.device) -> None:
    """Its networks, in place. The pipeline's own `to` warns of half precision on a CPU, where it
    only waits here.
    """
    for part in PARTS:
        getattr(pipeline, part).to(device)


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
    pipeline: StableDiffusionPipeline,
    scores: Sequence[Score],
    *,
    parts: dict[str, str],
    prompts: Sequence[Prompt],
    plan: Plan,
) -> ModelResult:
    sampling = plan.protocol.sampling
    cost = image_cost(
        parts_of_pipeline(pipeline),
        steps=sampling.steps,
        guidance=sampling.guidance,
        size=sampling.size,
    )
    unet = {name: value for name, value in pipeline.unet.config.items() if name[0] != "_"}
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
        environment={**environment(pipeline.device), "weights": parts},
        images=IMAGES,
        suffix=plan.protocol.keeping.suffix,
        curves=model.curves,
        experts=len(pipeline.shapes()) if isinstance(pipeline, MixturePipeline) else 0,
        routing=model.routing,
    )
