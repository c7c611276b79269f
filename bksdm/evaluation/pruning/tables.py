"""Sweeps as tables: a row a version and seed for programs, a row a point for people."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bksdm.atomic import replacing
from bksdm.evaluation.pruning.damage import CLIFF, KNEE, Threshold
from bksdm.evaluation.pruning.grid import BOTH, Curve
from bksdm.evaluation.pruning.pooled import Version
from bksdm.evaluation.pruning.sweep import Damage, Swept, loss_of, operating_point
from bksdm.evaluation.report import table
from bksdm.evaluation.score import Score
from bksdm.surgery.sparse.accounting import Accounting
from bksdm.surgery.sparse.plan import COMPONENTS

POINTS: Final = "points.csv"
SUMMARY: Final = "summary.json"
_WORDS: Final = {"text_encoder": "text encoder", "unet": "U-Net", BOTH: "text encoder + U-Net"}


def write_points(versions: Sequence[Version], folder: Path) -> Path:
    """`points.csv`: a row a version and seed, the dense model's first."""
    names = list(dict.fromkeys(name for version in versions for name in version.scores))
    rows = [_row(version, i, names) for version in versions for i in range(len(version.measured))]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = folder / POINTS
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return path


def _row(version: Version, at: int, names: Sequence[str]) -> dict[str, Any]:
    measured = version.measured[at]
    own, configuration = measured.accounting, measured.configuration
    row: dict[str, Any] = {
        "curve": version.curve,
        "method": version.label,
        "layers": configuration.selection.words if configuration else "",
        "seed": measured.seed,
    }
    for name in COMPONENTS:
        row[f"requested {name}"] = own.requested[name]
        row[f"zeros in pruned tensors of {name}"] = own.in_tensors[name]
        row[f"zeros in {name}"] = own.in_component[name]
    row |= {
        "nominal": own.nominal,
        "zeros in pruned tensors": own.pruned_tensors,
        "zeros in text encoder + U-Net": own.both,
        "zeros with VAE": own.with_vae,
        "dense bytes": own.dense_bytes,
        "packed bytes": own.packed_bytes,
    }
    for name in names:
        score = measured.score(name)
        row[name] = score.value if score else ""
        row[f"{name}: low"] = score.low if score and score.low is not None else ""
        row[f"{name}: high"] = score.high if score and score.high is not None else ""
    return row


def accounting_table(found: Accounting) -> str:
    """Every way of counting."""
    names = [name for name in COMPONENTS if found.requested[name]]
    rows = [
        *([f"requested, {_WORDS[n]}", _percent(found.requested[n])] for n in COMPONENTS),
        ["nominal: requested, weighted by whole sizes", _percent(found.nominal)],
        *(
            [f"zeros in the pruned tensors, {_WORDS[n]}", _percent(found.in_tensors[n])]
            for n in names
        ),
        ["zeros in all pruned tensors", _percent(found.pruned_tensors)],
        *([f"zeros in the whole {_WORDS[n]}", _percent(found.in_component[n])] for n in names),
        ["zeros in text encoder + U-Net", f"{_percent(found.both)} ({found.zeros:,})"],
        ["zeros in text encoder + U-Net + VAE", _percent(found.with_vae)],
        ["bytes of text encoder + U-Net, dense", f"{found.dense_bytes:,}"],
        ["the same, packed", f"{found.packed_bytes:,} ({_saved(found)})"],
        ["MACs and time of a call", "unchanged: zeros are multiplied like any number"],
    ]
    return table(rows, header=["", ""]).split("\n", 2)[2]


def _saved(found: Accounting) -> str:
    return f"{100 * (found.packed_bytes / found.dense_bytes - 1):+.1f} %"


def curve_tables(swept: Swept) -> str:
    """A table a curve: a row a point, a column a method, the deciding score with its interval."""
    return "\n\n".join(_curve_table(swept, curve) for curve in swept.curves)


def _curve_table(swept: Swept, curve: Curve) -> str:
    lines = {label: swept.line(curve, label) for label in curve.methods}
    rows = []
    for i, point in enumerate(curve.grid.points):
        true = [line[i].true_sparsity(curve.grid.along) for line in lines.values()]
        cells = [_score(line[i].scores[swept.decide]) for line in lines.values()]
        rows.append(
            [str(point), " - ".join(dict.fromkeys(map(_percent, (min(true), max(true))))), *cells]
        )
    dense = [_score(swept.dense.scores[swept.decide])] * len(lines)
    along = f"true, {_WORDS[curve.grid.along]}"
    title = f"{curve.name} ({curve.selection.words}): {swept.decide}"
    return f"{title}\n" + table(
        [["dense", _percent(0), *dense], *rows], header=["text/U-Net, %", along, *lines]
    )


def damage_table(found: Sequence[Damage], decide: str) -> str:
    """Knees and cliffs by the deciding score."""
    rows = [
        [each.curve, each.label, _threshold(each.knee), _threshold(each.cliff)]
        for each in found
        if each.score == decide
    ]
    told = (
        f"by {decide}, true sparsity; knee: {100 * KNEE:g} %, cliff: {100 * CLIFF:g} % of the range"
        " lost; [95 % interval over prompts]"
    )
    return f"{told}\n" + table(rows, header=["curve", "method", "knee", "cliff"])


def point_told(swept: Swept, *, max_loss: float | None) -> str:
    """The operating point in a sentence."""
    if max_loss is None:
        return (
            f"operating point: give max_loss=, in units of {swept.decide}; the same command then"
            " says it"
        )
    best = operating_point(swept, max_loss=max_loss)
    if best is None:
        return f"operating point: none of these loses at most {max_loss:g} in {swept.decide}"
    return (
        f"operating point: {version_told(best, swept.decide)}; of {len(swept.versions)} versions"
        f" the one with the most zeros of those that seem to lose at most {max_loss:g}; its"
        " interval says how sure that is"
    )


def version_told(version: Version, decide: str) -> str:
    """A version and what it loses, in words."""
    beside, own = version.losses.get(decide), version.measured[0].accounting
    told = (
        f"text encoder/U-Net {version.point} % with {version.label}: {100 * own.nominal:.1f} %"
        f" nominal, {100 * own.both:.1f} % true zeros, packed {_saved(own)}; {decide}"
    )
    if beside is None:
        return f"{told} is not a number"
    unit = 100 if version.scores[decide].percent else 1
    low, high = unit * beside.difference.low, unit * beside.difference.high
    difference = f"{unit * beside.difference.value:+.3g} [{low:+.3g}, {high:+.3g}]"
    return f"{told} {difference}, {beside.sentence}"


def write_summary(
    swept: Swept, found: Sequence[Damage], folder: Path, *, max_loss: float | None
) -> Path:
    """`summary.json`: knees, cliffs and the operating point."""
    best = None if max_loss is None else operating_point(swept, max_loss=max_loss)
    content = {
        "decide": swept.decide,
        "rule": {"knee": KNEE, "cliff": CLIFF},
        "max_loss": max_loss,
        "damage": [asdict(each) for each in found],
        "operating_point": None
        if best is None
        else {
            "curve": best.curve,
            "method": best.label,
            "text_encoder": best.point.text_encoder,
            "unet": best.point.unet,
            "loss": loss_of(best, swept.decide),
            "accounting": asdict(best.measured[0].accounting),
        },
    }
    path = folder / SUMMARY
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _score(score: Score) -> str:
    unit, digits = (100, ".1f") if score.percent else (1, ".4g")
    low, high = (unit * (score.value if end is None else end) for end in (score.low, score.high))
    return f"{unit * score.value:{digits}} [{low:{digits}}, {high:{digits}}]"


def _threshold(found: Threshold) -> str:
    if found.value is None:
        return "beyond the last"
    ends = [None if end is None else f"{100 * end:.1f}" for end in (found.low, found.high)]
    if ends == [None, None]:
        return f"{100 * found.value:.1f} %"
    return f"{100 * found.value:.1f} % [{ends[0] or '-'}, {ends[1] or 'beyond'}]"
