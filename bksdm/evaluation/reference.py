"""Reference sets: statistics of real pictures that a model's pictures are compared with.

A file says which network, weights, resize and picture format it was made with; one made otherwise
is refused, as the numbers would be wrong but plausible.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bksdm.atomic import open_to_others, replacing
from bksdm.errors import InputError
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measures.feature_set import FeatureSet
from bksdm.evaluation.measures.features import Extractor, Identity

BASELINE: Final = "baseline"  # the pictures of the model that others are compared with
UNKNOWN: Final = -1  # number of pictures of a .npz, which does not tell it
_ABOUT: Final = "about"
_KEPT: Final = ("jpeg_quality", "size", "crop", "resample")  # what `Keeping` does to a real picture
REMEDY: Final = "`bksdm prepare source=coco reference=PROTOCOL` makes it"


class ReferencePictures(Protocol):
    """Reference pictures that are at hand or drawn: a frozen dataclass of settings, hashable."""

    def __hash__(self) -> int:
        """What is made of them is kept by their values."""

    def batches(self, keeping: Keeping) -> Iterator[Tensor]:
        """uint8 pixels (N, 3, H, W), kept as the model's are."""


ReferenceSetting = str | ReferencePictures  # a path, `BASELINE`, or pictures


@dataclass(frozen=True, kw_only=True)
class About:
    """What a reference set was made of.

    Attributes:
        network: `Identity` of the network, as plain values; None where it is not known.
        layer: of the network.
        keeping: what happened to the pictures first (`kept`); None where it is not known.
        source: where the pictures came from.
    """

    network: Mapping[str, str] | None
    layer: str
    keeping: Mapping[str, Any] | None
    source: str


@dataclass(frozen=True)
class Reference:
    """Features of a reference set."""

    features: FeatureSet
    about: About


def kept(keeping: Keeping) -> dict[str, Any]:
    """What a protocol does to a real picture, as plain values."""
    return {name: getattr(keeping, name) for name in _KEPT}


def about(extractor: Extractor, *, layer: str, keeping: Keeping, source: str) -> About:
    """What a set made with this network, from pictures kept so, says of itself."""
    return About(
        network=asdict(extractor.identity), layer=layer, keeping=kept(keeping), source=source
    )


def write_reference(reference: Reference, path: Path) -> None:
    """Write a set as one safetensors file, all or nothing."""
    found = reference.features
    tensors = {"mean": found.mean, "covariance": found.covariance, "n": torch.tensor(found.n)}
    if found.rows is not None:
        tensors["rows"] = found.rows
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, {_ABOUT: json.dumps(asdict(reference.about))})
        open_to_others(temporary)


def read_reference(path: Path) -> Reference:
    """A set: our file, or pytorch-fid's .npz of `mu` and `sigma`, which says nothing of itself.

    Raises:
        InputError: not there, or not such a file.
    """
    if not path.is_file():
        raise InputError(f"reference {path}: not there; {REMEDY}")
    try:
        return _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise InputError(
            f"reference {path}: not a reference set ({type(error).__name__}: {error}); expected a"
            f" file of ours or pytorch-fid's .npz; {REMEDY}"
        ) from error


def _read_safetensors(path: Path) -> Reference:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = About(**json.loads((file.metadata() or {})[_ABOUT]))
    features = FeatureSet(
        n=int(tensors["n"]),
        mean=tensors["mean"],
        covariance=tensors["covariance"],
        rows=tensors.get("rows"),
    )
    return Reference(features, told)


def _read_npz(path: Path) -> Reference:
    with np.load(path) as arrays:
        mean, covariance = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
    if covariance.shape != (*mean.shape, *mean.shape):
        raise ValueError(f"mu {tuple(mean.shape)}, sigma {tuple(covariance.shape)}")
    told = About(network=None, layer="", keeping=None, source=f"{path.name}, pytorch-fid's format")
    return Reference(FeatureSet(UNKNOWN, mean, covariance), told)


def check_reference(
    reference: Reference, name: object, *, extractor: Extractor, layer: str, keeping: Keeping
) -> None:
    """Refuse a set that was made in another way. Of what a .npz does not tell, only the number of
    features is checked.

    Raises:
        InputError: names what differs, and both values.
    """
    told, ours = reference.about, about(extractor, layer=layer, keeping=keeping, source="")
    theirs: dict[str, Any] = {"features": len(reference.features.mean)}
    expected: dict[str, Any] = {"features": extractor.dims[layer]}
    if told.network is not None:
        theirs |= {**Identity(**told.network).key, "layer": told.layer}
        expected |= {**extractor.identity.key, "layer": layer}
    if told.keeping is not None:
        theirs |= told.keeping
        expected |= ours.keeping or {}
    differ = [key for key, value in expected.items() if theirs.get(key) != value]
    if differ:
        words = "; ".join(f"{key} {theirs.get(key)}, not {expected[key]}" for key in differ)
        raise InputError(
            f"reference {name}: it was made otherwise than this protocol measures: {words};"
            f" choose another, or make it anew: {REMEDY}"
        )
