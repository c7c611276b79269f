"""A sentence a model: better or worse than its baseline, or not to be told, and at what cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bksdm.evaluation.comparison import Comparison, Verdict
from bksdm.evaluation.page.costs import Costs, costs_of
from bksdm.evaluation.page.evaluated import Evaluated
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.numbers import DASH, decimals, percent, short, shown, signed, significant
from bksdm.evaluation.page.sources import Source
from bksdm.evaluation.results import Against
from bksdm.evaluation.score import Score

_SIGNS: Final = {
    Verdict.BETTER: "\N{UPWARDS ARROW}",
    Verdict.WORSE: "\N{DOWNWARDS ARROW}",
    Verdict.OPEN: "\N{ALMOST EQUAL TO}",
    Verdict.DIFFERENT: "\N{NOT EQUAL TO}",
}
_TO: Final = "\N{EN DASH}"
_N: Final = "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
_TIMES: Final = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class ComparisonRow:
    """One score of a model against its baseline, in words.

    Attributes:
        score: its name.
        kind: of the verdict, for its style.
        sign: the same as a character.
        verdict: the verdict with n.
        difference: with its interval.
        ratio: with its interval, or a dash.
        wins: shares of wins and losses.
    """

    score: str
    kind: str
    sign: str
    verdict: str
    difference: str
    ratio: str
    wins: str


@dataclass(frozen=True)
class VerdictLine:
    """What is said of a model under a protocol.

    Attributes:
        model: it.
        baseline: what it is compared with; empty if with nothing.
        told: the deciding comparison; None where there is none.
        because: why there is none; empty where there is one.
        costs: what it costs, beside the baseline if there is one; empty if not known.
        rows: all its comparisons.
    """

    model: Model
    baseline: str
    told: ComparisonRow | None
    because: str
    costs: str
    rows: tuple[ComparisonRow, ...] = ()


def verdict_lines(evaluated: Evaluated, models: Mapping[str, Model]) -> list[VerdictLine]:
    """One for each model and baseline of a protocol."""
    return [
        line
        for model, source in evaluated.rows
        for line in _lines(model, source, evaluated, models)
    ]


def _lines(
    model: Model, source: Source, evaluated: Evaluated, models: Mapping[str, Model]
) -> list[VerdictLine]:
    result = source.result
    if not result.against:
        why = "is the baseline" if model.baseline else "is compared with nothing"
        return [VerdictLine(model, "", None, why, _counts(costs_of(result)))]
    return [_line(model, source, against, evaluated, models) for against in result.against]


def _line(
    model: Model,
    source: Source,
    against: Against,
    evaluated: Evaluated,
    models: Mapping[str, Model],
) -> VerdictLine:
    known = models.get(against.weights)
    baseline = evaluated.source(against.weights)
    told = against.verdict
    rows = tuple(
        comparison_row(each, source.result.score(each.score)) for each in against.comparisons
    )
    return VerdictLine(
        model=model,
        baseline=known.label if known else against.name,
        told=None if told is None else comparison_row(told, source.result.score(told.score)),
        because="" if told else f"no verdict, as {against.why_open}",
        costs=_cost(
            costs_of(source.result),
            costs_of(baseline.result) if baseline else Costs(),
            beside=against.name,
        ),
        rows=rows,
    )


def comparison_row(comparison: Comparison, score: Score | None) -> ComparisonRow:
    """A comparison in words."""
    gap, ratio, factor = comparison.difference, comparison.ratio, shown(score)
    value, low, high = factor * gap.value, factor * gap.low, factor * gap.high
    places = decimals(value, width=high - low, digits=3) if low or high else 0
    points = " points" if factor != 1 else ""
    return ComparisonRow(
        score=comparison.score,
        kind=comparison.verdict.name.lower(),
        sign=_SIGNS[comparison.verdict],
        verdict=comparison.sentence.replace("n = ", _N),
        difference=f"{signed(value, places)}{points} ({signed(low, places)} to"
        f" {signed(high, places)})",
        ratio=DASH
        if ratio is None
        else f"{percent(ratio.value)} ({percent(ratio.low)} to {percent(ratio.high)})",
        wins=f"{percent(comparison.wins)} / {percent(comparison.losses)}",
    )


def _counts(costs: Costs) -> str:
    parts = [
        f"{short(value)} {name}"
        for name, value in (("parameters", costs.parameters), ("MACs a U-Net call", costs.macs))
        if value is not None
    ]
    return ", ".join(parts)


def _cost(ours: Costs, theirs: Costs, *, beside: str) -> str:
    parts = [
        f"{percent(own / whole)} of the {name}"
        for name, own, whole in (
            ("parameters", ours.parameters, theirs.parameters),
            ("MACs", ours.macs, theirs.macs),
        )
        if own is not None and whole
    ]
    time = ours.image_ratio or ours.call_ratio
    if time is not None:
        what = "an image" if ours.image_ratio else "a U-Net call"
        if ours.timed_beside not in (None, beside):  # it is read as the baseline's
            what += f" of {ours.timed_beside}"
        parts.append(
            f"{significant(time.median, 2)}{_TIMES} the time of {what}"
            f" (quartiles {significant(time.low, 2)}{_TO}{significant(time.high, 2)})"
        )
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
