"""Results by protocol: what the sections of the page are about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.published import Published, published
from bksdm.evaluation.page.sources import Source
from bksdm.evaluation.score import Score


@dataclass(frozen=True)
class Evaluated:
    """All models under one protocol.

    Attributes:
        name: the protocol's.
        rows: each model with its results, in the order of the models.
    """

    name: str
    rows: tuple[tuple[Model, Source], ...]

    @cached_property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores: the deciding one first, else in the protocol's order."""
        names = dict.fromkeys(
            score.name for _, source in self.rows for score in source.result.scores
        )
        return tuple(sorted(names, key=lambda name: name != self.deciding))

    @cached_property
    def deciding(self) -> str | None:
        """The score that verdicts are about; the first score if the protocol names none."""
        results = [source.result for _, source in self.rows]
        named = [each.deciding for result in results for each in result.against]
        named += [
            str(result.protocol["decide"]) for result in results if "decide" in result.protocol
        ]
        named += [score.name for result in results for score in result.scores]
        return named[0] if named else None

    @cached_property
    def published(self) -> Published | None:
        """What was published under this protocol."""
        return published(self.name)

    def source(self, weights: str) -> Source | None:
        """The results of a model."""
        return next((source for model, source in self.rows if model.weights == weights), None)

    def example(self, score: str) -> Score | None:
        """A score of that name, for what all of that name share."""
        found = (source.result.score(score) for _, source in self.rows)
        return next((each for each in found if each is not None), None)


def by_protocol(sources: Sequence[Source], models: Mapping[str, Model]) -> list[Evaluated]:
    """The protocols in the order in which they come."""
    order = {weights: model.place for weights, model in models.items()}
    names = dict.fromkeys(source.protocol for source in sources)
    return [
        Evaluated(
            name,
            tuple(
                (models[source.result.weights], source)
                for source in sorted(sources, key=lambda each: order[each.result.weights])
                if source.protocol == name
            ),
        )
        for name in names
    ]
