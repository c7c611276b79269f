"""The sample grid: the same prompts in columns, the models in rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bksdm.evaluation.page.evaluated import Evaluated
from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.pictures import Picture, picture

PROMPTS: Final = 12  # at most


@dataclass(frozen=True)
class SampleGrid:
    """Pictures of several models of the same prompts.

    Attributes:
        captions: a prompt a column.
        total: prompts that there are.
        rows: each model with its pictures; None where one is gone.
        without: labels of the models that kept no pictures.
    """

    captions: tuple[str, ...]
    total: int
    rows: tuple[tuple[Model, tuple[Picture | None, ...]], ...]
    without: tuple[str, ...]

    @property
    def gone(self) -> int:
        """Number of pictures that are not there."""
        return sum(each is None for _, pictures in self.rows for each in pictures)


def sample_grid(evaluated: Evaluated) -> SampleGrid | None:
    """Prompts that all models with pictures have, evenly taken; None if there are none."""
    shown = [(model, source) for model, source in evaluated.rows if source.result.images]
    prompts: dict[str, str] = dict(shown[0][1].prompts) if shown else {}
    for _, source in shown[1:]:
        prompts = {key: text for key, text in prompts.items() if source.prompts.get(key) == text}
    if not prompts:
        return None
    chosen = evenly(list(prompts), PROMPTS)
    return SampleGrid(
        captions=tuple(prompts[each] for each in chosen),
        total=len(prompts),
        rows=tuple(
            (model, tuple(picture(source.picture(each)) for each in chosen))
            for model, source in shown
        ),
        without=tuple(model.label for model, source in evaluated.rows if not source.result.images),
    )


def evenly(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, as far apart as they can be, the first among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
