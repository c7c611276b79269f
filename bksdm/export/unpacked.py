"""Read what `packed` wrote, bit for bit and tensor by tensor; refuse what does not fit together."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bksdm.errors import InputError
from bksdm.export.packed import CHUNK, DTYPES, FORMAT, NAMES, VERSION, bits_of
from bksdm.models.hub import first_line

# Weights of which the file is opened anew: it is mapped whole, and what was read of it counts as
# this process's memory until it is closed.
_GROUP: Final = 2**23

_Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


def read_packed(path: Path, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The state dict that a packed file holds.

    Args:
        path: of the file.
        dtype: that floating point tensors are brought to; None: as they are.

    Raises:
        InputError: it is none, of another version, or its parts do not fit together.
    """
    return {
        name: tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
        for name, tensor in packed_tensors(path)
    }


def packed_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a packed file by name, one at a time, the largest first.

    Raises:
        InputError: it is none, of another version, or its parts do not fit together.
    """
    with _opened(path) as file:
        packed = _packed_shapes(path, file)
        sizes = _sizes(path, file, packed)
    # The largest first: the pages of its entries are there while there is little else.
    for group in _groups(sizes):
        with _opened(path) as file:
            for name in group:
                if name in packed:
                    yield name, _unpacked(path, file, name, packed)
                else:
                    yield name, file.get_tensor(name).clone()


def packed_dtype(path: Path) -> torch.dtype:
    """The type of a packed file's floating point tensors.

    Raises:
        InputError: it is no packed file, of another version, or has several.
    """
    with _opened(path) as file:
        _packed_shapes(path, file)  # refuses what is none
        found = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    kinds = [dtype for dtype, name in NAMES.items() if name in found and dtype.is_floating_point]
    if len(kinds) != 1:
        raise InputError(f"{path}: floating point tensors of {kinds}; expected those of one type")
    return kinds[0]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: {first_line(error)}; expected a whole packed file, copy it or export again"
        ) from error


def _packed_shapes(path: Path, file: Any) -> _Shapes:
    said = file.metadata() or {}
    if said.get("format") != FORMAT:
        raise InputError(
            f"{path}: its format is {said.get('format')!r}, expected {FORMAT!r}; stock weights need"
            " no unpacking"
        )
    if said.get("version") != VERSION:
        raise InputError(
            f"{path}: version {said.get('version')!r} of the packed format, expected {VERSION!r};"
            " use the bksdm that wrote it, or export again"
        )
    try:
        shapes = {
            name: (tuple(int(side) for side in each["shape"]), DTYPES[each["dtype"]])
            for name, each in json.loads(said["packed"]).items()
        }
        if any(side < 0 for shape, _ in shapes.values() for side in shape):
            raise ValueError("a negative size")
        return shapes
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(
            path, f"what it says of its packed tensors is unreadable ({error})"
        ) from error


def _sizes(path: Path, file: Any, packed: _Shapes) -> dict[str, int]:
    """Number of weights of each tensor of the file."""
    entries = dict.fromkeys(file.keys())
    for name in packed:
        for entry in (f"{name}.mask", f"{name}.values"):
            if entry not in entries:
                raise _broken(path, f"no {entry}")
            del entries[entry]
        if name in entries:
            raise _broken(path, f"{name} is there packed and unpacked")
    whole = {name: prod(file.get_slice(name).get_shape()) for name in entries}
    return whole | {name: prod(shape) for name, (shape, _) in packed.items()}


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The names, the largest tensors first, in groups of about `_GROUP` weights."""
    group, weights = list[str](), 0
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if group and weights + sizes[name] > _GROUP:
            yield group
            group, weights = [], 0
        group.append(name)
        weights += sizes[name]
    if group:
        yield group


def _unpacked(path: Path, file: Any, name: str, packed: _Shapes) -> Tensor:
    shape, dtype = packed[name]
    mask, values = file.get_tensor(f"{name}.mask"), file.get_tensor(f"{name}.values")
    size = prod(shape)
    if mask.dtype != torch.uint8 or mask.shape != (-(-size // 8),):
        raise _broken(path, f"{name}.mask is {_told(mask)}, for {size} weights")
    if values.dtype != dtype or values.ndim != 1:
        raise _broken(path, f"{name}.values is {_told(values)}, expected one row of {dtype}")
    if size % 8 and int(mask[-1]) >> size % 8:
        raise _broken(path, f"{name}.mask goes on behind the last weight")
    result = torch.zeros(size, dtype=dtype)
    kept = _spread(mask.numpy(), torch.from_numpy(bits_of(values)), bits_of(result))
    if kept != len(values):
        raise _broken(path, f"{name} has {len(values)} values, and its mask keeps {kept}")
    return result.view(shape)


def _spread(mask: Any, values: Tensor, out: Any) -> int:
    """Put values where the mask says, and return how many it asks for: also if they are fewer."""
    start = 0
    for first in range(0, out.size, CHUNK):
        chunk = torch.from_numpy(out[first : first + CHUNK])
        bits = mask[first // 8 : (first + CHUNK) // 8]
        keep = np.unpackbits(bits, bitorder="little").view(bool)
        kept = int(np.count_nonzero(keep))
        if start + kept <= len(values):
            # faster than numpy's boolean index where half of the weights are kept
            there = torch.from_numpy(keep[: len(chunk)])
            chunk.masked_scatter_(there, values[start : start + kept])
        start += kept
    return start


def _told(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {tensor.dtype}"


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}; the file is damaged, copy it or export again")
