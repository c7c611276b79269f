"""How many prompts go elsewhere when a router is trained further."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from bksdm.gates.router import Router


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Between two checkpoints of a run.

    Attributes:
        earlier: steps of the one,
        later: and of the other.
        share: of the prompts whose code differs, 0 to 1.
        prompts: how many different ones were asked.
    """

    earlier: int
    later: int
    share: float
    prompts: int


def drifts(routers: Sequence[tuple[int, Router]], embeddings: Tensor) -> tuple[Drift, ...]:
    """From each router to the next, as they route without noise, each prompt alone.

    Args:
        routers: of one run, each after so many steps.
        embeddings: (P, E) of the prompts, on the routers' device.
    """
    routed = [(step, router.route(embeddings)) for step, router in sorted(routers, key=_step)]
    return tuple(
        Drift(
            earlier=before,
            later=after,
            share=float((old != new).double().mean()),
            prompts=len(embeddings),
        )
        for (before, old), (after, new) in pairwise(routed)
    )


def _step(router: tuple[int, Router]) -> int:
    return router[0]
