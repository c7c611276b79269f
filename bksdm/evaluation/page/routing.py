"""What the page says of routers: of runs of `bksdm route`, and of mixtures that were evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bksdm.errors import InputError
from bksdm.evaluation.page.heatmap import HeatMap, heat_map
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.numbers import DASH, fixed, percent, short
from bksdm.evaluation.page.sources import Source
from bksdm.evaluation.routing import told
from bksdm.evaluation.routing.analysis import Analysis, ExpertAnalysis, analysis_of, read_analysis
from bksdm.evaluation.routing.hardness import RatedPrompt
from bksdm.evaluation.routing.words import Word
from bksdm.export.mixture_folder import ANALYSIS, ROUTER

_ROUTED = "routing.json"  # of a run of `bksdm route`
_SHOWN = 6  # words of an expert


@dataclass(frozen=True)
class RoutingRun:
    """A run of `bksdm route`, as the user named it, and its analysis."""

    name: str
    analysis: Analysis


@dataclass(frozen=True)
class RoutingPart:
    """What the page says of one router.

    Attributes:
        name: of the run; empty for a model.
        model: the mixture; None for a run.
        summary: a sentence.
        experts: a row each: number, share, prompts, MACs, of the teacher, parameters, modules that
            went, words it gets more often, words it gets less often.
        heat: what each keeps.
        correlation: whether hard prompts get more, in a sentence.
        rated: tables of prompts by their caption.
        kinds: rows of kind, prompts, MACs, difficulty.
        drift: a sentence from each checkpoint to the next.
    """

    name: str
    model: Model | None
    summary: str
    experts: Sequence[Sequence[str]]
    heat: HeatMap | None
    correlation: str
    rated: Mapping[str, Sequence[Sequence[str]]]
    kinds: Sequence[Sequence[str]]
    drift: Sequence[str]

    @property
    def label(self) -> str:
        """What it is called."""
        return self.model.label if self.model else self.name


def routing_runs(names: Sequence[str]) -> tuple[list[RoutingRun], list[str]]:
    """Which of the names are runs of `bksdm route`, and the others.

    Raises:
        InputError: such a run has no analysis, or one that cannot be read.
    """
    runs, others = [], []
    for name in names:
        folder = Path(name).expanduser()
        if (folder / _ROUTED).is_file() and (folder / ROUTER).is_dir():
            runs.append(RoutingRun(name, read_analysis(folder / ANALYSIS)))
        else:
            others.append(name)
    return runs, others


def routing_parts(
    sources: Sequence[Source], models: Mapping[str, Model], runs: Sequence[RoutingRun]
) -> list[RoutingPart]:
    """Of each mixture, then of each run that none of them is of.

    Raises:
        InputError: what results say of a router cannot be read.
    """
    found: dict[str, Analysis] = {}
    for source in sources:
        if source.result.routing is not None:
            found.setdefault(source.result.weights, _analysis(source))
    parts = [
        _part(analysis, models[weights], "", place)
        for place, (weights, analysis) in enumerate(found.items())
    ]
    alone = [run for run in runs if run.analysis not in found.values()]
    return parts + [
        _part(run.analysis, None, run.name, place) for place, run in enumerate(alone, len(parts))
    ]


def _analysis(source: Source) -> Analysis:
    try:
        return analysis_of(source.result.routing)
    except ValueError as error:
        raise InputError(
            f"{source.named}: what its results say of the router is not of this version of bksdm"
            f" ({error}); evaluate again"
        ) from error


def _part(analysis: Analysis, model: Model | None, name: str, place: int) -> RoutingPart:
    taken = sum(each.prompts > 0 for each in analysis.experts)
    summary = (
        f"{taken} experts; on average over the training prompts {percent(analysis.mean)} of the"
        f" teacher's {short(analysis.teacher['macs'])} MACs a call, target"
        f" {percent(analysis.target)}."
    )
    hard = analysis.hardness
    return RoutingPart(
        name=name,
        model=model,
        summary=summary,
        experts=[_expert(each) for each in analysis.experts],
        heat=heat_map(analysis, name=f"heat-{place}", colour=model.colour if model else 1),
        correlation=told.correlation(hard),
        rated={"hardest": _rated(hard.hardest), "easiest": _rated(hard.easiest)},
        kinds=[
            [
                each.kind,
                f"{each.prompts:,}",
                percent(each.macs_share),
                DASH if each.difficulty is None else fixed(each.difficulty, 2),
            ]
            for each in analysis.kinds
        ],
        drift=[told.drift(each) for each in analysis.drift],
    )


def _expert(each: ExpertAnalysis) -> list[str]:
    return [
        str(each.expert),
        percent(each.share),
        f"{each.prompts:,}",
        short(each.macs),
        percent(each.macs_share),
        short(each.parameters),
        str(each.modules_dropped),
        _words(each.words.most),
        _words(each.words.fewest),
    ]


def _words(words: Sequence[Word]) -> str:
    times = "\N{MULTIPLICATION SIGN}"
    return ", ".join(f"{each.word} {each.lift:.2g}{times}" for each in words[:_SHOWN]) or DASH


def _rated(prompts: Sequence[RatedPrompt]) -> list[list[str]]:
    return [
        [each.prompt, fixed(each.difficulty, 2), str(each.expert), percent(each.macs_share)]
        for each in prompts
    ]
