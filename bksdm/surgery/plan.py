"""Plans: frozen, JSON-serialisable answers to the question which parts of the teacher stay.

Knows the numbers of stages and layers of a U-Net. Knows nothing of weights, losses or training.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from bksdm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """Which residual (and attention) layers of each U-Net stage stay, for a U-Net whose up stages
    mirror its down stages.

    Attributes:
        down: for each stage that stays, outermost first, the kept layers of its down half, in
            order. Fewer entries than the teacher has stages remove the innermost ones. Layer 0
            always stays: it alone changes the channels.
        mid: whether the mid block stays.
    """

    down: tuple[tuple[int, ...], ...]
    mid: bool

    def __post_init__(self) -> None:
        """Freeze lists (a plan may come from JSON or the shell) and refuse patterns that are no
        plan for any U-Net.
        """
        try:
            frozen = tuple(tuple(int(layer) for layer in stage) for stage in self.down)
        except TypeError:
            raise InputError(
                f"plan down={self.down!r}: expected a list of layer lists, e.g. [[0],[0,1],[0],[0]]"
            ) from None
        object.__setattr__(self, "down", frozen)
        if not frozen:
            raise InputError("plan down=[]: at least one stage must stay")
        for stage, layers in enumerate(frozen):
            if not layers or layers[0] != 0 or list(layers) != sorted(set(layers)):
                raise InputError(
                    f"plan down[{stage}]={list(layers)}: expected increasing layer numbers that"
                    " begin with 0, the layer that changes the channels"
                )

    @property
    def stages(self) -> int:
        """How many stages stay."""
        return len(self.down)

    def up(self, stage: int, *, layers: int) -> tuple[int, ...]:
        """Kept layers of the up half of `stage` (0 is the outermost), when the teacher's down half
        has `layers` layers.

        An up half has one layer more than its down half: the first takes the channel change, the
        last takes the skip of the previous down stage. A kept down layer j > 0 keeps up layer
        `layers` - j. So down (0,) of two gives up (0, 2), the published pattern.
        """
        return tuple(sorted({0} | {layers - j for j in self.down[stage]}))

    def to_json(self) -> str:
        """One line of JSON; `from_json` is the inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "BlockPlan":
        """The plan that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(down=values["down"], mid=values["mid"])


BASE: Final = BlockPlan(down=((0,), (0,), (0,), (0,)), mid=True)
SMALL: Final = BlockPlan(down=BASE.down, mid=False)
TINY: Final = BlockPlan(down=BASE.down[:3], mid=False)


def identity(layers: tuple[int, ...]) -> BlockPlan:
    """The plan that keeps everything of a U-Net with these numbers of layers a stage."""
    return BlockPlan(down=tuple(tuple(range(count)) for count in layers), mid=True)
