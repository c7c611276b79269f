"""A sweep: all versions of some curves, and what the curves say: knees, cliffs, operating point."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bksdm.errors import InputError
from bksdm.evaluation.pruning.damage import CLIFF, KNEE, Threshold, threshold
from bksdm.evaluation.pruning.grid import BOTH, Configuration, Curve
from bksdm.evaluation.pruning.pooled import Version, pooled, pooled_dense
from bksdm.evaluation.pruning.study import Study
from bksdm.evaluation.score import Better, Items, Score

THRESHOLDS: Final = {"knee": KNEE, "cliff": CLIFF}


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A finished sweep.

    Attributes:
        curves: as they were asked for.
        dense: the dense model.
        versions: all others, in the order of the curves, methods and points.
        decide: the score that the operating point is about.
    """

    curves: tuple[Curve, ...]
    dense: Version
    versions: tuple[Version, ...]
    decide: str

    def line(self, curve: Curve, label: str) -> list[Version]:
        """The versions of a curve that were made with one method."""
        return [v for v in self.versions if v.curve == curve.name and v.label == label]


def configurations(curves: Sequence[Curve], seed: int) -> list[tuple[str, Configuration]]:
    """(curve's name, version) of all versions of one seed."""
    return [
        (
            curve.name,
            Configuration(
                label=label, methods=methods, selection=curve.selection, point=point, seed=seed
            ),
        )
        for curve in curves
        for label, methods in curve.methods.items()
        for point in curve.grid.points
    ]


def sweep(
    study: Study,
    curves: Sequence[Curve],
    seeds: Sequence[int],
    *,
    advance: Callable[[int], object] = lambda count: None,
) -> Swept:
    """Make and judge all versions with all seeds; what is on disk is read.

    Args:
        study: how.
        curves: what.
        seeds: with which.
        advance: is told of each version that is done.
    """
    decide, dense, found = study.protocol(seeds[0]).decide, [], []
    for seed in seeds:
        for name, configuration in configurations(curves, seed):
            found.append((name, study.measured(configuration)))
            if len(found) == 1:
                check_decides(pooled_dense([study.dense(seed)]), decide)
            advance(1)
        dense.append(study.dense(seed))  # made before the first version, if that can be pruned
    whole = pooled_dense(dense)
    count = len(found) // len(seeds)
    by_seed = [found[i * count : (i + 1) * count] for i in range(len(seeds))]
    versions = [
        pooled(same[0][0], [measured for _, measured in same], whole)
        for same in zip(*by_seed, strict=True)
    ]
    return Swept(
        curves=tuple(curves),
        dense=whole,
        versions=tuple(versions),
        decide=decide,
    )


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Where a curve of one method breaks, by one score.

    Attributes:
        curve: its name.
        label: of the method.
        score: by which.
        floor: of its quality (higher is better), where the range ends; None where unknown.
        knee: where damage begins.
        cliff: where pictures collapse.
    """

    curve: str
    label: str
    score: str
    floor: float | None
    knee: Threshold
    cliff: Threshold


def damages(swept: Swept) -> list[Damage]:
    """Knee and cliff of every line, by every score of which one way is good."""
    found = []
    for curve in swept.curves:
        if not curve.line:
            continue
        for label in curve.methods:
            line = swept.line(curve, label)
            for name, score in swept.dense.scores.items():
                if score.better is not Better.NEITHER and all(name in v.scores for v in line):
                    found.append(_damage(swept, curve, line, name))
    return found


def _damage(swept: Swept, curve: Curve, line: Sequence[Version], name: str) -> Damage:
    sparsities = [version.true_sparsity(curve.grid.along) for version in line]
    items = np.array([_qualities(version.scores[name]) for version in (swept.dense, *line)])
    floor = _floor(swept, name)
    knee, cliff = (
        threshold(sparsities, items, floor=floor, loss=loss) for loss in THRESHOLDS.values()
    )
    if swept.dense.scores[name].items is None:  # one number a model: no prompts to draw from
        knee, cliff = (Threshold(value=each.value, low=None, high=None) for each in (knee, cliff))
    return Damage(
        curve=curve.name,
        label=line[0].label,
        score=name,
        floor=floor if math.isfinite(floor) else None,
        knee=knee,
        cliff=cliff,
    )


def _qualities(score: Score) -> list[float]:
    """Of each prompt, higher is better."""
    sign = -1.0 if score.better is Better.LOWER else 1.0
    items = score.items or Items(("all",), (score.value,))
    return [sign * value for _, value in sorted(zip(items.ids, items.values, strict=True))]


def _floor(swept: Swept, name: str) -> float:
    if swept.dense.scores[name].percent:
        return 0.0
    every = (swept.dense, *swept.versions)
    values = [np.mean(_qualities(v.scores[name])) for v in every if name in v.scores]
    return float(min(filter(math.isfinite, values), default=math.nan))


def check_decides(dense: Version, decide: str) -> None:
    """Refuse to decide by one number a model: nothing tells whether two of them differ.

    Raises:
        InputError: names the score, and those that can decide.
    """
    if dense.scores[decide].items is None:
        able = [name for name, score in dense.scores.items() if score.items is not None]
        raise InputError(
            f"protocol.decide={decide}: it has no value of each prompt; expected one of"
            f" {', '.join(able)}"
        )


def loss_of(version: Version, decide: str) -> float:
    """What the deciding score has lost beside the dense model; in points for a share of prompts.

    Higher is worse. Infinity where it is not a number.
    """
    beside, score = version.losses.get(decide), version.scores[decide]
    if beside is None:
        return math.inf
    sign = 1.0 if score.better is Better.LOWER else -1.0
    return sign * beside.difference.value * (100 if score.percent else 1)


def operating_point(swept: Swept, *, max_loss: float) -> Version | None:
    """Of all versions the one with the most zeros that has not lost more; None without any."""
    good = [v for v in swept.versions if loss_of(v, swept.decide) <= max_loss]
    return max(good, key=lambda version: version.true_sparsity(BOTH), default=None)


def labels(curves: Sequence[Curve]) -> Mapping[str, int]:
    """All methods of a sweep with a number each, the same in every picture."""
    names = dict.fromkeys(label for curve in curves for label in curve.methods)
    return {name: number for number, name in enumerate(names)}
