"""Results as tables that fit a terminal. A number that was not measured is a dash."""

import math
from collections.abc import Sequence

from bksdm.evaluation.comparison import Comparison, Interval, Verdict
from bksdm.evaluation.results import Against, ModelResult
from bksdm.evaluation.score import Score


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> str:
    """Columns aligned, the first to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def score_table(results: Sequence[ModelResult]) -> str:
    """A row a score, a column a model, intervals where they are known."""
    names = list(dict.fromkeys(score.name for result in results for score in result.scores))
    rows = []
    for name in names:
        found = [result.score(name) for result in results]
        first = next(score for score in found if score is not None)
        unit = ", %" if first.percent else ""
        counts = sorted({score.n for score in found if score is not None})
        rows.append([f"{name}{unit}", *map(_cell, found), " / ".join(map(str, counts))])
    protocol = results[0].protocol.get("name", "")
    return table(rows, header=[str(protocol), *(result.name for result in results), "n"])


def _cell(score: Score | None) -> str:
    if score is None or math.isnan(score.value):
        return "-"
    value = number(score.value, percent=score.percent)
    if score.low is None or score.high is None:
        return value
    ends = (number(end, percent=score.percent) for end in (score.low, score.high))
    return f"{value} ({' - '.join(ends)})"


def number(value: float, *, percent: bool = False, signed: bool = False) -> str:
    """Four digits, or a percentage with one decimal."""
    sign = "+" if signed else ""
    if percent:
        return f"{100 * value:{sign}.1f}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, min(6, 3 - math.floor(math.log10(abs(value)))))
    return f"{value:{sign}.{min(decimals, 4) if abs(value) >= 0.01 else decimals}f}"


def verdicts(results: Sequence[ModelResult]) -> str:
    """A line for each model beside a baseline: the verdict, and what it stands on."""
    return "\n".join(
        line for result in results for each in result.against for line in _verdict(result, each)
    )


def _verdict(result: ModelResult, against: Against) -> list[str]:
    decided = against.verdict
    if decided is None:
        return [
            f"{result.name}: {against.deciding} has no paired values; no verdict against"
            f" {against.name}"
        ]
    score = result.score(against.deciding)
    percent = score is not None and score.percent
    word = "than" if decided.verdict in (Verdict.BETTER, Verdict.WORSE) else "from"
    claim = f"{result.name}: {decided.verdict} {word} {against.name} with n = {decided.n} prompts"
    return [f"{claim}", f"  {evidence(decided, percent=percent)}"]


def evidence(found: Comparison, *, percent: bool) -> str:
    """The difference, the ratio and the win rate behind a verdict."""
    points = " points" if percent else ""
    difference = _interval(found.difference, percent=percent, signed=True)
    ratio = ""
    if found.ratio is not None and math.isfinite(found.ratio.value):
        ratio = f", {_interval(found.ratio, percent=True)} % of it"
    return (
        f"{found.score}: {difference}{points}{ratio}; wins {found.wins:.1%}, loses"
        f" {found.losses:.1%}, the rest ties"
    )


def _interval(found: Interval, *, percent: bool, signed: bool = False) -> str:
    value, low, high = (
        number(each, percent=percent, signed=signed)
        for each in (found.value, found.low, found.high)
    )
    return f"{value} ({low} to {high})"


def cost_table(results: Sequence[ModelResult]) -> str:
    """A row a model: what its U-Net and a whole image cost, beside the first model's."""
    first = results[0]
    rows = [
        [
            result.name,
            *_beside(_unet(result, "parameters"), _unet(first, "parameters")),
            *_beside(_unet(result, "macs"), _unet(first, "macs")),
            *_beside(_unet(result, "macs_published"), _unet(first, "macs_published")),
            *_time(result),
        ]
        for result in results
    ]
    header = ["U-Net", "parameters", "", "MACs", "", "published MACs", "", "ms a call", "ratio"]
    return table(rows, header=header)


def _unet(result: ModelResult, name: str) -> int:
    assert result.cost is not None
    return int(result.cost["unet"]["total"][name])


def _beside(value: int, whole: int) -> tuple[str, str]:
    return f"{value:,}", "" if value == whole else f"{100 * (value / whole - 1):+.1f} %"


def _time(result: ModelResult) -> tuple[str, str]:
    """Of a U-Net call on the rows of one image, and over the baseline's."""
    if result.speed is None or result.cost is None:
        return "-", "-"
    rows = result.cost["rows"]
    call = next(each for each in result.speed["unet_calls"] if each["batch"] == rows)
    seconds, ratio = call["seconds"], call["ratio"]
    return (
        "-" if seconds is None else f"{1000 * seconds['median']:.3g}",
        "-"
        if ratio is None
        else f"{ratio['median']:.2f} ({ratio['low']:.2f} - {ratio['high']:.2f})",
    )
