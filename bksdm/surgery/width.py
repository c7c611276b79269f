"""Width plans: which units and modules of a U-Net stay, as frozen, JSON-serialisable values.

Knows sites. Knows nothing of weights, gates or training.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bksdm.errors import InputError
from bksdm.surgery.sites import Sites


@dataclass(frozen=True, kw_only=True)
class WidthPlan:
    """Which units of each width site stay, and which depth sites go.

    Attributes:
        kept: by name of a width site the numbers of its units that stay, increasing; a site that is
            not named keeps all. Sites inside a module that goes are not named.
        dropped: names of the depth sites that go.
    """

    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Freeze lists, which JSON and the shell give, and refuse what is no plan."""
        try:
            kept = {str(n): tuple(int(u) for u in units) for n, units in dict(self.kept).items()}
            dropped = tuple(str(name) for name in self.dropped)
        except (TypeError, ValueError):
            raise InputError(
                "width plan: expected kept={site: [units]} and dropped=[modules], as `bksdm route`"
                " writes"
            ) from None
        for name, units in kept.items():
            if not units or list(units) != sorted(set(units)) or units[0] < 0:
                raise InputError(
                    f"width plan: {name} keeps {list(units)}; expected increasing numbers of units,"
                    " at least one"
                )
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "dropped", dropped)

    def __hash__(self) -> int:
        """Plans are told apart by what they say."""
        return hash(self.to_json())

    def to_json(self) -> str:
        """One line of JSON; `from_json` is the inverse."""
        return json.dumps({"kept": dict(self.kept), "dropped": self.dropped})

    @classmethod
    def from_json(cls, text: str) -> "WidthPlan":
        """The plan that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(kept=values["kept"], dropped=values["dropped"])


def check(plan: WidthPlan, sites: Sites) -> None:
    """Raise InputError if the plan is not one for a U-Net with these sites."""
    width = {site.name: site for site in sites.width}
    for name, units in plan.kept.items():
        if name not in width:
            raise InputError(f"the plan names {name}, which the teacher's U-Net does not have")
        if units[-1] >= width[name].units:
            raise InputError(
                f"the plan keeps unit {units[-1]} of {name}, but the teacher's U-Net has"
                f" {width[name].units} units there (0 to {width[name].units - 1})"
            )
    for name in plan.dropped:
        if name not in sites.depth_positions:
            raise InputError(
                f"the plan drops {name}, which cannot go; expected some of"
                f" {', '.join(sites.depth_positions)}"
            )


def plan_of(gates: Tensor | Sequence[bool], sites: Sites) -> WidthPlan:
    """The plan that keeps what is open, of gates (D,): those above 1/2.

    Raises:
        ValueError: all units of a site are closed.
    """
    open_ = torch.as_tensor(gates, device="cpu") > 0.5
    dropped = tuple(name for name, at in sites.depth_positions.items() if not open_[at])
    kept = {}
    for site in sites.width:
        units = open_[sites.slices[site.name]].nonzero()[:, 0].tolist()
        if site.depth in dropped or len(units) == site.units:
            continue
        if not units:
            raise ValueError(f"all units of {site.name} are closed; expected one that stays")
        kept[site.name] = tuple(units)
    return WidthPlan(kept=kept, dropped=dropped)


def gates_of(plan: WidthPlan, sites: Sites) -> Tensor:
    """Gates (D,) of 0 and 1 that mask what the plan cuts; open inside modules that go."""
    check(plan, sites)
    gates = torch.ones(sites.gates)
    for name, units in plan.kept.items():
        part = torch.zeros_like(gates[sites.slices[name]])
        part[list(units)] = 1
        gates[sites.slices[name]] = part
    for name in plan.dropped:
        gates[sites.depth_positions[name]] = 0
    return gates


def aligned(plan: WidthPlan, sites: Sites, multiple: int) -> WidthPlan:
    """The plan with units given back, the first ones of a site first, until the channels of each
    cut site are a multiple of so many, as tensor cores want them; of a site with no such number all
    units stay.
    """
    kept = {}
    for site in sites.width:
        units = plan.kept.get(site.name)
        if units is None:
            continue
        fits = (n for n in range(len(units), site.units) if n * site.size % multiple == 0)
        wanted = next(fits, None)
        if wanted is not None:
            spare = [unit for unit in range(site.units) if unit not in units]
            kept[site.name] = tuple(sorted([*units, *spare[: wanted - len(units)]]))
    return WidthPlan(kept=kept, dropped=plan.dropped)
