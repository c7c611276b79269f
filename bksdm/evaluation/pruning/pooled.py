"""Versions of several seeds taken together: a score over all their prompts, and what was lost
beside the dense model on the same ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bksdm.evaluation.comparison import Comparison, compare
from bksdm.evaluation.measures.attributes import share
from bksdm.evaluation.measures.per_prompt import mean_score
from bksdm.evaluation.pruning.grid import BOTH, Point
from bksdm.evaluation.pruning.study import Measured
from bksdm.evaluation.score import Items, Score


@dataclass(frozen=True, kw_only=True)
class Version:
    """One pruned model over all seeds.

    Attributes:
        curve: its; empty for the dense model.
        label: of its methods.
        point: what was asked for.
        measured: by seed.
        scores: over all seeds, by name.
        losses: beside the dense model, of scores with items.
    """

    curve: str
    label: str
    point: Point
    measured: tuple[Measured, ...]
    scores: Mapping[str, Score]
    losses: Mapping[str, Comparison]

    def true_sparsity(self, along: str) -> float:
        """Share of zeros among all weights of a component, or of both."""
        found = [
            each.accounting.both if along == BOTH else each.accounting.in_component[along]
            for each in self.measured
        ]
        return sum(found) / len(found)


def pooled_dense(measured: Sequence[Measured]) -> Version:
    """The dense model over all seeds."""
    return Version(
        curve="",
        label="dense",
        point=Point(),
        measured=tuple(measured),
        scores=_pooled_scores(measured),
        losses={},
    )


def pooled(curve: str, measured: Sequence[Measured], dense: Version) -> Version:
    """One version, measured with each seed, beside the dense model."""
    configuration = measured[0].configuration
    assert configuration is not None
    scores = _pooled_scores(measured)
    beside = {
        name: compare(score, dense.scores[name])
        for name, score in scores.items()
        if name in dense.scores
    }
    return Version(
        curve=curve,
        label=configuration.label,
        point=configuration.point,
        measured=tuple(measured),
        scores=scores,
        losses={name: each for name, each in beside.items() if each is not None},
    )


def _pooled_scores(measured: Sequence[Measured]) -> dict[str, Score]:
    names = dict.fromkeys(score.name for each in measured for score in each.scores)
    found = {}
    for name in names:
        several = [(m, score) for m in measured if (score := m.score(name)) is not None]
        found[name] = _pooled_score(name, several)
    return found


def _pooled_score(name: str, several: Sequence[tuple[Measured, Score]]) -> Score:
    first = several[0][1]
    if first.items is not None:
        items = _pooled_items([(each, score.items) for each, score in several if score.items])
        return share(name, items) if first.percent else mean_score(name, first.better, items)
    values = [score.value for _, score in several]
    return Score(
        name=name,
        value=sum(values) / len(values),
        better=first.better,
        n=sum(score.n for _, score in several),
        low=min(values),
        high=max(values),
        interval="range of seeds",
    )


def _pooled_items(several: Sequence[tuple[Measured, Items]]) -> Items:
    """Seeds with prompts of their own side by side. What seeds share (the same pictures, or the
    same captions with other noise) are no independent items: each is its mean over the seeds.
    """
    values: dict[str, list[float]] = {}
    for measured, items in several:
        names = _names(items.ids, measured.texts)
        for name, value in zip(names, items.values, strict=True):
            values.setdefault(name, []).append(value)
    return Items(tuple(values), tuple(sum(each) / len(each) for each in values.values()))


def _names(ids: Sequence[str], texts: Mapping[str, str]) -> list[str]:
    """Prompts by their texts, as ids number the prompts of a seed; a text that comes twice in a
    seed is two items.
    """
    seen: Counter[str] = Counter()
    names = []
    for item in ids:
        name = texts.get(item, item)
        seen[name] += 1
        names.append(f"{name} {seen[name]}")
    return names
