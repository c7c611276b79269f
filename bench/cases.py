"""What the step's benchmark compares: the cases, in one place, for the CPU toy and for a GPU at
real size alike. Knows nothing of devices: what cannot run somewhere says so when it is tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

from bksdm.training.speed import BACKENDS, SpeedSettings


@dataclass(frozen=True, kw_only=True)
class Step:
    """How training steps are made. The defaults are those of `make bench`; a device's own come from
    its world (`bench.world`).

    Attributes:
        loop: our step through the Trainer; the same maths in a bare loop; or the reference recipe,
            which has all other settings from the paper's scripts but for the precision.
        pictures: the data are pictures, and the VAE is in the loop; else cached latents.
        cached_text: the text states are cached, too.
        precision: of the Trainer.
        adam: how AdamW goes over the weights; None for what a run does.
        ema: whether the student is averaged.
        speed: the switches of a run.
    """

    loop: Literal["trainer", "bare", "reference"] = "trainer"
    pictures: bool = False
    cached_text: bool = False
    precision: str = "32-true"
    adam: Literal["for-loop", "foreach", "fused"] | None = None
    ema: bool = True
    speed: SpeedSettings = field(default_factory=SpeedSettings)

    def changed(self, changes: Mapping[str, Any]) -> "Step":
        """With other values, named as here or as in SpeedSettings."""
        own = {each.name for each in fields(Step)}
        speed = {name: value for name, value in changes.items() if name not in own}
        mine = {name: value for name, value in changes.items() if name in own}
        return replace(self, **mine, speed=replace(self.speed, **speed))


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two things that are compared."""

    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of the table: this against that, all else as in the default.

    Attributes:
        name: for the command line.
        this: what the ratio is of.
        against: what it is divided by.
        goal: the ratio that we want at least; None for a mere comparison.
        processes: that it needs.
    """

    name: str
    this: Side
    against: Side
    goal: float | None = None
    processes: int = 1


def _switch(name: str, on: Mapping[str, Any], off: Mapping[str, Any], **given: Any) -> Case:
    """A switch on against the same off; the label of `off` follows unless given."""
    words = given.pop("against", f"no {name}")
    against = Side(label=words, changes=off)
    return Case(name=name, this=Side(label=name, changes=on), against=against, **given)


OURS: Final = Side(label="our step")
CASES: Final = (
    Case(
        name="bare loop",
        this=OURS,
        against=Side(label="bare loop, same maths", changes={"loop": "bare"}),
        goal=0.97,
    ),
    Case(
        name="reference",
        this=OURS,
        against=Side(label="reference recipe", changes={"loop": "reference"}),
        goal=2.0,
    ),
    _switch(
        "cached latents", {"pictures": False}, {"pictures": True},
        against="pictures, VAE in the loop",
    ),
    _switch(
        "cached text states", {"cached_text": True}, {"cached_text": False},
        against="text encoder in the loop",
    ),
    _switch("compile", {"compile": "default"}, {"compile": None}, against="eager"),
    _switch("channels_last", {"channels_last": True}, {"channels_last": False}),
    _switch(
        "gradient checkpointing", {"gradient_checkpointing": True},
        {"gradient_checkpointing": False},
    ),
    _switch(
        "bf16 autocast", {"precision": "bf16-mixed"}, {"precision": "32-true"}, against="float32"
    ),
    _switch(
        "bf16 teacher", {"teacher_precision": "bfloat16"}, {"teacher_precision": "float32"},
        against="float32 teacher",
    ),
    _switch("fused AdamW", {"adam": "fused"}, {"adam": "for-loop"}, against="for-loop AdamW"),
    _switch("foreach AdamW", {"adam": "foreach"}, {"adam": "for-loop"}, against="for-loop AdamW"),
    *(
        _switch(
            f"attention={kernel}", {"attention": kernel}, {"attention": "auto"},
            against="attention=auto",
        )
        for kernel in (*BACKENDS, "xformers")
    ),
    _switch("EMA", {"ema": True}, {"ema": False}),
    _switch(
        "bf16 all-reduce", {"allreduce": "bfloat16"}, {"allreduce": "float32"},
        against="float32 all-reduce", processes=2,
    ),
)  # fmt: skip
