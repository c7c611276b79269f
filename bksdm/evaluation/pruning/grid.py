"""Grids of sparsities: which points a curve has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bksdm import expected
from bksdm.errors import InputError
from bksdm.surgery.sparse.layers import Selection
from bksdm.surgery.sparse.method import Method
from bksdm.surgery.sparse.plan import COMPONENTS, sparsity_setting

BOTH = "both"


@dataclass(frozen=True, order=True)
class Point:
    """Requested shares of zeros, each in [0, 1)."""

    text_encoder: float = 0.0
    unet: float = 0.0

    def __post_init__(self) -> None:
        for name in COMPONENTS:
            sparsity_setting(name, getattr(self, name))

    @property
    def pruned(self) -> dict[str, float]:
        """By component, without those that stay dense."""
        shares = {name: getattr(self, name) for name in COMPONENTS}
        return {name: share for name, share in shares.items() if share}

    def __str__(self) -> str:
        return f"{100 * self.text_encoder:g}/{100 * self.unet:g}"


class Grid(Protocol):
    """Settings of a grid: a frozen dataclass that an experiment names by `_target_`."""

    @property
    def along(self) -> str:
        """The component whose true sparsity is the axis; "both" for text encoder + U-Net."""

    @property
    def points(self) -> list[Point]:
        """In the order of the axis."""


@dataclass(frozen=True, kw_only=True)
class One:
    """One component alone."""

    component: str
    sparsities: Sequence[float]

    def __post_init__(self) -> None:
        expected.one_of("component", self.component, COMPONENTS)
        _refuse_single("sparsities", self.sparsities)

    @property
    def along(self) -> str:
        """See `Grid.along`."""
        return self.component

    @property
    def points(self) -> list[Point]:
        """See `Grid.points`."""
        return [Point(**{self.component: share}) for share in sorted(self.sparsities)]


@dataclass(frozen=True, kw_only=True)
class Together:
    """Both, the text encoder always `offset` above the U-Net: the paper's second approach."""

    unet: Sequence[float]
    offset: float

    def __post_init__(self) -> None:
        _refuse_single("unet", self.unet)
        expected.number("offset", self.offset)

    @property
    def along(self) -> str:
        """See `Grid.along`."""
        return BOTH

    @property
    def points(self) -> list[Point]:
        """See `Grid.points`."""
        return [Point(round(share + self.offset, 6), share) for share in sorted(self.unet)]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Both, in pairs [text encoder, U-Net]: the paper's first approach, fixed totals split in
    several ways.
    """

    pairs: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        _refuse_single("pairs", self.pairs)
        for pair in self.pairs:
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise InputError(f"pairs: {pair}; expected [text encoder, U-Net]")

    @property
    def along(self) -> str:
        """See `Grid.along`."""
        return BOTH

    @property
    def points(self) -> list[Point]:
        """See `Grid.points`."""
        return [Point(*pair) for pair in self.pairs]


def _refuse_single(name: str, values: object) -> None:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise InputError(f"{name}={values}: expected a list")


def label_of(names: Iterable[str]) -> str:
    """Of the components' methods: one name where they are the same."""
    return "+".join(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points that are made with each of several methods.

    Attributes:
        name: for tables and files.
        grid: the points.
        methods: by label, of each component.
        selection: which layers.
        line: whether neighbouring points belong together, so that knee and cliff mean something.
    """

    name: str
    grid: Grid
    methods: Mapping[str, Mapping[str, Method]]
    selection: Selection = field(default_factory=Selection)
    line: bool = True


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One pruned model.

    Attributes:
        label: of the methods.
        methods: by component.
        selection: which layers.
        point: how much.
        seed: of prompts, of noise, of calibration and of what is random in a method.
    """

    label: str
    methods: Mapping[str, Method]
    selection: Selection
    point: Point
    seed: int

    @property
    def calibrated(self) -> bool:
        """Whether a method looks at inputs."""
        return any(self.methods[name].needs for name in self.point.pruned)

    def values(self) -> dict[str, Any]:
        """Everything that the pruned weights depend on besides the model and the calibration."""
        pruned = self.point.pruned
        return {
            "methods": {name: repr(self.methods[name]) for name in pruned},
            "layers": repr(self.selection),
            "sparsity": pruned,
            "seed": self.seed,
        }
