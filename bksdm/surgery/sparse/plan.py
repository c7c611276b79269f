"""Sparsity plans: which weights of a text encoder and a U-Net are zero, tensor by tensor.

A plan is made by counting what is there after pruning, never from what was asked for. Knows nothing
of criteria, calibration or files.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from torch import Tensor

from bksdm import expected
from bksdm.errors import InputError

COMPONENTS: Final = ("text_encoder", "unet")
_DIGITS: Final = 16


@dataclass(frozen=True, kw_only=True)
class TensorSparsity:
    """One pruned tensor.

    Attributes:
        name: in the component's state dict, such as "encoder.layers.0.mlp.fc1.weight".
        shape: its.
        criterion: what chose, in words.
        requested: share of zeros that was asked for, 0 to 1.
        zeros: number of zeros that there are.
        mask: sha256, shortened, of which weights are not zero (`mask_hash`); empty in a plan that
            was only counted.
    """

    name: str
    shape: tuple[int, ...]
    criterion: str
    requested: float
    zeros: int
    mask: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))

    @property
    def sparsity(self) -> float:
        """Share of zeros that there are."""
        return self.zeros / self.size


@dataclass(frozen=True, kw_only=True)
class ComponentSparsity:
    """A network of the pipeline of which weights were zeroed.

    Attributes:
        component: "text_encoder" or "unet".
        requested: share of zeros that was asked for in each of its tensors.
        parameters: of the whole network, with biases, norms and embeddings.
        tensors: what was pruned; the rest is as it was.
        method: everything that chose: criterion, settings, seed, calibration; empty if only
            counted.
    """

    component: str
    requested: float
    parameters: int
    tensors: tuple[TensorSparsity, ...]
    method: str = ""

    def __post_init__(self) -> None:
        expected.one_of("component", self.component, COMPONENTS)
        sparsity_setting(self.component, self.requested)
        tensors = (
            t if isinstance(t, TensorSparsity) else TensorSparsity(**t) for t in self.tensors
        )
        object.__setattr__(self, "tensors", tuple(tensors))

    @property
    def zeros(self) -> int:
        """In all its pruned tensors."""
        return sum(tensor.zeros for tensor in self.tensors)

    @property
    def prunable(self) -> int:
        """Weights of all its pruned tensors."""
        return sum(tensor.size for tensor in self.tensors)


@dataclass(frozen=True, kw_only=True)
class SparsityPlan:
    """What is zero in a text encoder, a U-Net, or both.

    Attributes:
        components: at most one entry each.
    """

    components: tuple[ComponentSparsity, ...]

    def __post_init__(self) -> None:
        parts = (
            c if isinstance(c, ComponentSparsity) else ComponentSparsity(**c)
            for c in self.components
        )
        object.__setattr__(self, "components", tuple(parts))
        names = [part.component for part in self.components]
        if len(set(names)) != len(names):
            raise InputError(f"a sparsity plan with {names}: expected each component once")

    def of(self, component: str) -> ComponentSparsity | None:
        """The part of a component; None where it is left alone."""
        return next((part for part in self.components if part.component == component), None)

    def to_json(self) -> str:
        """JSON; `from_json` is the inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "SparsityPlan":
        """The plan that `to_json` wrote.

        Raises:
            InputError: it is none.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise InputError(f"not a sparsity plan of this version ({error})") from error


def sparsity_setting(name: str, value: Any) -> None:
    """Refuse what is no share of zeros.

    Raises:
        InputError: it is not in [0, 1).
    """
    expected.number(name, value, least=0, below=1)


def mask_hash(keep: Tensor) -> str:
    """sha256, shortened, of a mask (any shape, bool): its bits, row-major, the first in the lowest.

    The same bits are the mask of a packed file (`export.packed`).
    """
    return hashlib.sha256(mask_bits(keep).data).hexdigest()[:_DIGITS]


def mask_bits(keep: Tensor) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Eight entries of a mask a byte, row-major, the first in the lowest bit."""
    return np.packbits(keep.cpu().contiguous().view(-1).numpy(), bitorder="little")


def counted(name: str, weight: Tensor, *, criterion: str, requested: float) -> TensorSparsity:
    """What is zero in a tensor as it is now."""
    keep = weight != 0
    return TensorSparsity(
        name=name,
        shape=tuple(weight.shape),
        criterion=criterion,
        requested=requested,
        zeros=keep.numel() - int(keep.sum()),
        mask=mask_hash(keep),
    )


def check_masks(plan: ComponentSparsity, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise unless the named tensors are zero exactly where the plan says.

    Raises:
        InputError: one is missing or has other zeros.
    """
    there = dict(tensors)
    for each in plan.tensors:
        weight = there.get(each.name)
        if weight is None or mask_hash(weight != 0) != each.mask:
            why = "is not there" if weight is None else "has other zeros than its plan says"
            raise InputError(
                f"{plan.component} {each.name} {why}; expected the weights that were pruned with"
                " this sparsity.json; prune again"
            )
