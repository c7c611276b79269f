"""A score that is the mean of one value a prompt, gathered from all processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from bksdm.evaluation.comparison import Interval, mean_interval
from bksdm.evaluation.score import Better, Items, Score


def share() -> slice:
    """This process's part of what every process could do: from its rank on, every `world`-th."""
    if dist.is_available() and dist.is_initialized():
        return slice(dist.get_rank(), None, dist.get_world_size())
    return slice(None)


class PerPrompt:
    """Values by prompt id, float64: the only state that grows, by one number a picture.

    The order in which prompts come, the batches they come in and the processes they come to make no
    difference. A prompt that comes twice (samplers that fill up the last batch) counts once.
    """

    def __init__(self) -> None:
        self._values: dict[str, float] = {}

    def update(self, ids: Sequence[str], values: Tensor | Sequence[float]) -> None:
        """Take in N prompts' values, (N,)."""
        numbers = values.double().tolist() if isinstance(values, Tensor) else map(float, values)
        self._values.update(zip(ids, numbers, strict=True))

    def items(self) -> Items:
        """The values of all processes, in the order of ids; all processes call it together."""
        everyone = [self._values]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            everyone = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(everyone, self._values)
        together = {name: value for values in everyone for name, value in values.items()}
        ids = tuple(sorted(together))
        return Items(ids, tuple(together[name] for name in ids))

    def score(
        self, name: str, better: Better, *, details: Mapping[str, Any] | None = None
    ) -> Score:
        """The mean over all prompts with a bootstrap interval; NaN where there were none.

        All processes call it together.
        """
        return mean_score(name, better, self.items(), details=details)


def mean_score(
    name: str, better: Better, items: Items, *, details: Mapping[str, Any] | None = None
) -> Score:
    """The mean of items with a bootstrap interval; NaN where there are none."""
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    mean = mean_interval(items.values) if items.values else nothing
    return Score(
        name=name,
        value=mean.value,
        better=better,
        n=len(items.values),
        low=mean.low if items.values else None,
        high=mean.high if items.values else None,
        interval="bootstrap" if items.values else "",
        items=items,
        details=dict(details or {}),
    )
