"""Evaluate one model under a protocol: one pass over its pictures, every measure at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline

from bksdm.evaluation.comparison import compare, not_numbers
from bksdm.evaluation.gallery import Gallery, pictures
from bksdm.evaluation.measure import Measuring, Subject
from bksdm.evaluation.prompts import Prompt
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.results import Against
from bksdm.evaluation.score import Score
from bksdm.evaluation.turns import in_turns
from bksdm.processes import Process


@dataclass(frozen=True)
class Baseline:
    """The model that others are compared with: what it is called, made and scored."""

    name: str
    weights: str
    gallery: Gallery
    scores: Sequence[Score]


@dataclass(frozen=True)
class Ready:
    """A model that is ready to sample, and its measures ready to measure."""

    pipeline: StableDiffusionPipeline
    protocol: Protocol
    measuring: Sequence[Measuring]


def ready(pipeline: StableDiffusionPipeline, protocol: Protocol, *, compared: bool = True) -> Ready:
    """Load what the measures need, before any picture is made.

    Args:
        pipeline: the model, on its device.
        protocol: what is done.
        compared: whether `evaluate` will be given a baseline.

    Raises:
        InputError: the model cannot be measured so, or a file is missing.
    """
    prepared = protocol.sampling.prepared(pipeline)
    subject = Subject(prepared, prepared.device, protocol.keeping, compared)
    return Ready(prepared, protocol, [measure.begin(subject) for measure in protocol.wanted])


@torch.no_grad()
def evaluate(
    model: Ready,
    prompts: Sequence[Prompt],
    gallery: Gallery,
    *,
    baseline: Gallery | None,
    process: Process,
    advance: Callable[[int], object] = lambda count: None,
) -> list[Score]:
    """Make what is missing of this process's pictures, and measure all.

    Args:
        model: which, and what is done with it.
        prompts: all of the protocol's; this process takes every `world`-th.
        gallery: where the pictures are kept.
        baseline: the baseline's, complete; the same gallery if this is the baseline; None without.
        process: which one this is. All call it together.
        advance: is told the number of pictures that are measured.

    Returns:
        The scores over the pictures of all processes.

    Raises:
        InputError: the model cannot be measured so.
    """
    mine = in_turns(model.pipeline, prompts[process.rank :: process.world])
    sampling = model.protocol.sampling
    for batch in pictures(model.pipeline, mine, sampling, gallery, baseline=baseline):
        for each in model.measuring:
            each.update(batch)
        advance(len(batch.prompts))
    return [score for each in model.measuring for score in each.scores()]


def against(scores: Sequence[Score], baseline: Baseline, protocol: Protocol) -> Against:
    """A model's scores beside the baseline's, paired by item."""
    theirs = {score.name: score for score in baseline.scores}
    pairs = [(score, theirs[score.name]) for score in scores if score.name in theirs]
    found = [compare(*pair) for pair in pairs]
    broken = {pair[0].name: not_numbers(*pair) for pair in pairs}
    return Against(
        name=baseline.name,
        weights=baseline.weights,
        deciding=protocol.decide,
        comparisons=tuple(each for each in found if each is not None),
        not_numbers={name: count for name, count in broken.items() if count},
    )
