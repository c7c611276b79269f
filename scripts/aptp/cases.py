"""The cases of the study: how the parts of a case are made, and how long each is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TEACHER: Final = "teacher"
ONE: Final = "one architecture, learned"


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A way to spend MACs and steps.

    Attributes:
        name: in the tables.
        budget: share of the teacher's MACs that an image costs on average.
        route: settings of `bksdm route`, which makes the plans; None for a block student.
        train: further settings of `bksdm train`.
        each: whether every expert is trained for all the steps; else they share them.
    """

    name: str
    budget: float
    route: Sequence[str] | None = ()
    train: Sequence[str] = ()
    each: bool = False

    @property
    def slug(self) -> str:
        """For folders."""
        return f"{self.name}-{self.budget:g}".replace(", ", "_").replace(" ", "_")


def main_cases(budget: float) -> list[Case]:
    """Routing beside what does without it, at equal MACs and equal steps in all."""
    return [
        Case(name=ONE, budget=budget, route=["method.experts=1"]),
        Case(name="4 experts", budget=budget, route=["method.experts=4"]),
        Case(name="8 experts", budget=budget, route=["method.experts=8"]),
        Case(name="units by magnitude", budget=budget, route=["method=width_magnitude"]),
        Case(name="units at random", budget=budget, route=["method=width_random"]),
    ]


BLOCKS: Final = Case(name="BK-Small", budget=0.65, route=None, train=["student=small"])

ABLATIONS: Final = [
    Case(
        name=f"4 experts, {name}",
        budget=0.65,
        route=["method.experts=4", *route],
    )
    for name, route in {
        "no contrastive term": ["method.weights.contrastive=0"],
        "no optimal transport": ["method.sinkhorn=null"],
        "no distillation": ["method.weights.output_kd=0", "method.weights.block_kd=0"],
        "not balanced": ["method.balance=false"],
    }.items()
]

EACH: Final = Case(
    name="4 experts, all steps each", budget=0.45, route=["method.experts=4"], each=True
)

SAME_SIZE: Final = [
    Case(
        name=name,
        budget=0.45,
        route=[
            "method.experts=4",
            "method.same_size=true",
            "method.weights.spread=0",
            "method.weights.largest=0",
        ],
        each=each,
    )
    for name, each in {"4 of one size": False, "4 of one size, all steps each": True}.items()
]

PUBLISHED: Final = Case(
    name="4 experts, as published",
    budget=0.65,
    route=["method=aptp_published", "method.experts=4"],
)

ALL: Final = [*main_cases(0.65), BLOCKS, *main_cases(0.45), EACH, *SAME_SIZE, *ABLATIONS, PUBLISHED]
