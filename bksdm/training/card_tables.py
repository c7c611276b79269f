"""The tables of a model card, from what was counted and measured."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bksdm.evaluation.report import number, score_cell, unet_call, verdicts
from bksdm.evaluation.results import ModelResult
from bksdm.evaluation.score import Better
from bksdm.export.card import CostRow, Measured, ResultRow, ResultTable
from bksdm.models.cost import Cost

_SAMPLING: Final = ("steps", "guidance", "scheduler")  # what a table says of its pictures


def cost_rows(teacher: Cost, student: Cost) -> Iterator[CostRow]:
    """Parameters and MACs of both conventions."""
    for field, label, unit in [
        ("parameters", "U-Net parameters, M", 1e6),
        ("macs", "MACs of a U-Net call, G", 1e9),
        ("macs_published", "the same as published, G", 1e9),
    ]:
        before, after = getattr(teacher, field), getattr(student, field)
        change = f"{100 * (after / before - 1):+.1f} %"
        yield CostRow(label, f"{before / unit:.4g}", f"{after / unit:.4g}", change)


def time_rows(models: Sequence[ModelResult]) -> tuple[list[CostRow], str]:
    """A row with the time of a U-Net call beside the first model's, and the machine."""
    timed = [each for each in models if each.speed is not None and each.cost is not None]
    if len(timed) < 2:
        return [], ""
    first, last = timed[0], timed[-1]
    calls = [unet_call(each) for each in (first, last)]
    before, after = (f"{1000 * call['seconds']['median']:.3g}" for call in calls)
    ratio = calls[1]["ratio"]
    beside = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] of the teacher's"
    speed = last.speed
    assert speed is not None
    machine = "{name} ({device}, threads: {threads}), torch {torch}".format(**speed["machine"])
    return [CostRow("ms of a U-Net call", before, after, beside)], machine


def result_table(models: Sequence[ModelResult]) -> ResultTable:
    """What one protocol measured of models; the last is the student that the card is of."""
    student = models[-1]
    names = list(dict.fromkeys(score.name for model in models for score in model.scores))
    rows = []
    for name in names:
        found = [score for model in models if (score := model.score(name)) is not None]
        ns = " / ".join(map(str, sorted({score.n for score in found})))
        cells = tuple(score_cell(model.score(name)) for model in models)
        lower = " (lower is better)" * (found[0].better is Better.LOWER)
        rows.append(ResultRow(f"{name}{', %' * found[0].percent}{lower}", cells, ns))
    sampling = student.protocol.get("settings", {}).get("sampling", {})
    told = [f"{name} {sampling[name]}" for name in _SAMPLING if sampling.get(name) is not None]
    protocol = str(student.protocol["name"])
    return ResultTable(
        protocol=protocol,
        columns=tuple(model.name for model in models),
        rows=tuple(rows),
        verdicts=tuple(line.strip() for line in verdicts([student], width=10_000).splitlines()),
        environment=", ".join(told),
        measured=tuple(
            Measured(protocol, score.name, float(number(score.value, percent=score.percent)))
            for score in student.scores
            if score.value == score.value  # not NaN
        ),
    )


def start_line(start: Mapping[str, Any]) -> str:
    """The command of a start, and with what it was run."""
    commit = start.get("commit")
    at = f"commit {commit}" if commit else f"version {start['versions']['bksdm']}"
    command = " ".join(str(start["command"]).split())
    return f"{command}    # from step {start['step']}, {at}, {start['date'][:10]}"
