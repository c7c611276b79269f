"""Results as tables that fit a terminal. A number that was not measured is a dash."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bksdm.evaluation.comparison import Comparison, Interval, Verdict
from bksdm.evaluation.results import Against, ModelResult
from bksdm.evaluation.score import Score

WIDTH: Final = 80
_GAP: Final = 2
LEGEND: Final = (
    "[low, high]: 95 % interval, of times the middle half; (%): beside the first;\n"
    "(number): standard deviation over parts of the pictures, no interval"
)

Row = tuple[str, Callable[[ModelResult], str]]


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> str:
    """Columns aligned, the first to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        (" " * _GAP).join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last parts of paths, as many as tell them apart."""
    parts = {name: name.strip("/").split("/") for name in names}
    for depth in range(1, max(map(len, parts.values()), default=0)):
        short = {name: "/".join(each[-depth:]) for name, each in parts.items()}
        if len(set(short.values())) == len(short):
            return short
    return {name: name for name in names}


def score_table(results: Sequence[ModelResult], *, width: int = WIDTH) -> str:
    """A row a score, a column a model, 95 % intervals where they are known; more models than fit
    below each other.
    """
    names = list(dict.fromkeys(score.name for result in results for score in result.scores))
    rows, ends = [], []
    for name, label in zip(names, _indented(names), strict=True):
        found = [score for result in results if (score := result.score(name)) is not None]
        rows.append(
            [f"{label}{', %' * found[0].percent}", *(score_cell(r.score(name)) for r in results)]
        )
        ends.append(" / ".join(map(str, sorted({score.n for score in found}))))
    first = str(results[0].protocol.get("name", ""))
    return _by_model(rows, ends, header=(first, _headings(results), "n"), width=width)


def _indented(names: Sequence[str]) -> list[str]:
    """A part of the score before it, such as "all: held out" below "all", without its name."""
    labels, whole = [], ""
    for name in names:
        part = bool(whole) and name.startswith(f"{whole}: ")
        labels.append(f"  {name.removeprefix(whole)[2:]}" if part else name)
        whole = whole if part else name
    return labels


def _headings(results: Sequence[ModelResult]) -> list[str]:
    short = short_names([result.name for result in results])
    return [short[result.name] for result in results]


def _by_model(
    rows: Sequence[Sequence[str]],
    ends: Sequence[str],
    *,
    header: tuple[str, Sequence[str], str],
    width: int,
) -> str:
    """Tables of a label, as many models' columns as fit after the first model's, and an end."""
    label, models, end = header
    widths = [max(map(len, column)) for column in zip([label, *models], *rows, strict=True)]
    outside = widths[0] + _GAP + max(map(len, [end, *ends]))
    groups: list[list[int]] = []
    for at in range(1, len(widths)):
        taken = sum(widths[i] + _GAP for i in [*groups[-1], at]) if groups else width
        if groups and outside + taken <= width:
            groups[-1].append(at)
        else:  # each table has the first model, which the others are beside, if it fits
            beside = outside + widths[1] + widths[at] + 2 * _GAP <= width
            groups.append([1, at] if at > 1 and beside else [at])
    return "\n\n".join(
        table(
            [
                [row[0], *(row[i] for i in group), *([last] if end else [])]
                for row, last in zip(rows, ends, strict=True)
            ],
            header=[label, *(models[i - 1] for i in group), *([end] if end else [])],
        )
        for group in groups
    )


def score_cell(score: Score | None) -> str:
    """A value with its interval, or its spread, as text; a dash where nothing was measured."""
    if score is None or math.isnan(score.value):
        return "-"
    if score.low is None or score.high is None:
        value = number(score.value, percent=score.percent)
        spread = "" if score.deviation is None else f" ({number(score.deviation)})"
        return f"{value}{spread}"
    found = Interval(score.value, score.low, score.high)
    return _interval(found, percent=score.percent)


def number(value: float, *, percent: bool = False, signed: bool = False) -> str:
    """Four digits, or a percentage with one decimal."""
    sign = "+" if signed else ""
    if percent:
        return f"{100 * value:{sign}.1f}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-4:
        return f"{value:{sign}.1e}"
    decimals = max(0, min(6, 3 - math.floor(math.log10(abs(value)))))
    return f"{value:{sign}.{min(decimals, 4) if abs(value) >= 0.01 else decimals}f}"


def verdicts(results: Sequence[ModelResult], *, width: int = WIDTH) -> str:
    """A few lines for each model beside a baseline: the verdict, and what it stands on."""
    named = [each.name for result in results for each in result.against]
    short = short_names(list(dict.fromkeys([*(result.name for result in results), *named])))
    return "\n".join(
        line
        for result in results
        for each in result.against
        for line in _verdict(result, each, short, width)
    )


def _verdict(
    result: ModelResult, against: Against, short: Mapping[str, str], width: int
) -> list[str]:
    decided = against.verdict
    name, baseline = short[result.name], short[against.name]
    if decided is None:
        return [f"{name}: no verdict against {baseline}: {against.why_open}"]
    score = result.score(against.deciding)
    percent = score is not None and score.percent
    word = "than" if decided.verdict in (Verdict.BETTER, Verdict.WORSE) else "from"
    claim = f"{name}: {decided.verdict} {word} {baseline} with n = {decided.n} prompts"
    return [claim, *_wrapped(evidence(decided, percent=percent), width)]


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Parts with semicolons between them, on as few lines as hold them, none broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(f"{lines[-1]}; {part}") < width:
            lines[-1] += f"; {part}"
        else:
            lines.append(part)
    return [textwrap.indent(line, "  ") for line in lines]


def evidence(found: Comparison, *, percent: bool) -> list[str]:
    """The difference, the ratio and the win rate behind a verdict."""
    points = " points" if percent else ""
    parts = [
        f"{found.score}: {_interval(found.difference, percent=percent, signed=True)}{points}",
    ]
    if found.ratio is not None and math.isfinite(found.ratio.value):
        parts.append(f"{_interval(found.ratio, percent=True)} % of the baseline's")
    ties = max(0.0, 1 - found.wins - found.losses)
    parts.append(f"wins {found.wins:.1%}, loses {found.losses:.1%}, ties {ties:.1%}")
    return parts


def _interval(found: Interval, *, percent: bool, signed: bool = False) -> str:
    value, low, high = (
        number(each, percent=percent, signed=signed)
        for each in (found.value, found.low, found.high)
    )
    return f"{value} [{low}, {high}]"


def cost_table(results: Sequence[ModelResult], *, width: int = WIDTH) -> str:
    """A column a model: what its U-Net and a whole image cost, beside the first model's."""
    first = results[0]
    rows: list[Row] = [
        ("parameters, M", lambda one: _beside(one, first, "parameters", 1e6)),
        ("GMACs a call", lambda one: _beside(one, first, "macs", 1e9)),
        ("  as published", lambda one: _beside(one, first, "macs_published", 1e9)),
        ("ms a call", lambda one: _time(one, "seconds", 1000)),
        ("  ratio to the first", lambda one: _time(one, "ratio", 1)),
    ]
    cells = [[label, *map(cell, results)] for label, cell in rows]
    ends = [""] * len(rows)
    return _by_model(cells, ends, header=("U-Net", _headings(results), ""), width=width)


def _unet(result: ModelResult, name: str) -> int:
    assert result.cost is not None
    return int(result.cost["unet"]["total"][name])


def _beside(result: ModelResult, first: ModelResult, name: str, unit: float) -> str:
    value, whole = _unet(result, name), _unet(first, name)
    share = "" if value == whole else f" ({100 * (value / whole - 1):+.1f} %)"
    return f"{value / unit:.4g}{share}"


def unet_call(result: ModelResult) -> Mapping[str, Any]:
    """Times of a U-Net call on the rows of one image, of a result that has times."""
    assert result.speed is not None
    assert result.cost is not None
    rows, calls = result.cost["rows"], result.speed["unet_calls"]
    found: Mapping[str, Any] = next(each for each in calls if each["batch"] == rows)
    return found


def _time(result: ModelResult, name: str, factor: float) -> str:
    """Of a U-Net call on the rows of one image: median, and middle half or interval."""
    if result.speed is None or result.cost is None:
        return "-"
    found: Mapping[str, Any] | None = unet_call(result)[name]
    if found is None:
        return "-"
    value, low, high = (f"{factor * found[end]:.3g}" for end in ("median", "low", "high"))
    return f"{value} [{low}, {high}]"
