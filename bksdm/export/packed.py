"""Weights with zeros as a smaller safetensors file: a bit a weight, and the weights that are kept.

The format, version 1. A tensor that packing makes smaller has two entries: NAME.mask, uint8, its
mask as `surgery.sparse.plan.mask_bits` orders it; and NAME.values, the kept weights in row-major
order. A weight is kept unless all its bits are zero, so -0.0 and NaN survive. Every other tensor is
as it always is. The metadata say format, version, and under "packed" as JSON the shape and dtype of
each packed tensor. The size is arithmetic: n / 8 + kept * itemsize bytes a tensor of n weights.

Knows nothing of networks, plans or folders.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bksdm.atomic import replacing
from bksdm.errors import InputError
from bksdm.surgery.sparse.plan import mask_bits

FORMAT: Final = "bksdm-packed"
VERSION: Final = "1"
NAMES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES: Final = {str(dtype).removeprefix("torch."): dtype for dtype in NAMES}
_BITS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
CHUNK: Final = 2**18  # weights at a time: they stay in the cache; a multiple of 8

Bits = NDArray[Any]


@dataclass(frozen=True)
class _Entry:
    """An entry of a file, and which part of which tensor it is."""

    name: str
    tensor: str
    part: Literal["whole", "values", "mask"]
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_packed(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    names: Collection[str],
    dtype: torch.dtype | None = None,
) -> None:
    """Write a state dict, tensor by tensor.

    Args:
        tensors: by name.
        path: of the file, there whole or not at all.
        names: which are packed, if that makes them smaller.
        dtype: that floating point tensors are rounded to; None: as they are.

    Raises:
        InputError: a tensor has a type that the format has no name for, is beyond the range of
            `dtype`, or has the name of an entry.
    """
    entries = _entries(tensors, names, dtype)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_header(entries, tensors, dtype))
        for entry in entries:
            _write_entry(file, entry, rounded(entry.tensor, tensors[entry.tensor], dtype))


def packed_bytes(
    tensors: Mapping[str, Tensor], *, names: Collection[str], dtype: torch.dtype | None = None
) -> int:
    """Size of the file that `write_packed` writes, which is not written."""
    entries = _entries(tensors, names, dtype)
    return len(_header(entries, tensors, dtype)) + sum(entry.size for entry in entries)


def rounded(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor as a file has it: on the CPU, contiguous, floating point values as `dtype` (None: as
    they are). The tensor itself where nothing changes.

    Raises:
        InputError: a value is beyond the range of `dtype`.
    """
    if dtype is None or not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor.detach().cpu().contiguous()
    result = tensor.detach().to("cpu", dtype).contiguous()
    result += 0  # small negative weights become -0.0, whose bits are not zero
    if torch.isinf(result).sum() != torch.isinf(tensor).sum():
        raise InputError(
            f"dtype={str(dtype).removeprefix('torch.')}: {name} has values beyond"
            f" {torch.finfo(dtype).max:,.0f}, its range; use float32"
        )
    return result


def _entries(
    tensors: Mapping[str, Tensor], names: Collection[str], dtype: torch.dtype | None
) -> list[_Entry]:
    wanted, entries = set(names), list[_Entry]()
    for name, tensor in tensors.items():
        weight = rounded(name, tensor, dtype)
        if weight.dtype not in NAMES:
            raise InputError(f"{name} is {weight.dtype}; expected one of {', '.join(DTYPES)}")
        whole = _Entry(name, name, "whole", weight.dtype, tuple(weight.shape))
        packed = _packed_entries(name, weight) if name in wanted else (whole,)
        entries += packed if sum(each.size for each in packed) < whole.size else (whole,)
    if twice := [
        name for name, count in Counter(each.name for each in entries).items() if count > 1
    ]:
        raise InputError(f"{twice[0]} would be the name of two entries; leave that tensor unpacked")
    # Wide types first, as safetensors' own writer: all entries lie aligned.
    return sorted(entries, key=lambda entry: -entry.dtype.itemsize)


def _packed_entries(name: str, weight: Tensor) -> tuple[_Entry, _Entry]:
    kept = int(np.count_nonzero(bits_of(weight)))
    return (
        _Entry(f"{name}.values", name, "values", weight.dtype, (kept,)),
        _Entry(f"{name}.mask", name, "mask", torch.uint8, (-(-weight.numel() // 8),)),
    )


def _header(
    entries: Iterable[_Entry], tensors: Mapping[str, Tensor], dtype: torch.dtype | None
) -> bytes:
    """As https://github.com/huggingface/safetensors describes it."""
    packed, places, start = {}, {}, 0
    for entry in entries:
        if entry.part == "values":
            kind = str(entry.dtype).removeprefix("torch.")
            packed[entry.tensor] = {"shape": list(tensors[entry.tensor].shape), "dtype": kind}
        places[entry.name] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, start + entry.size],
        }
        start += entry.size
    said = {"format": FORMAT, "version": VERSION, "packed": json.dumps(packed)}
    text = json.dumps({"__metadata__": said, **places}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_entry(file: BinaryIO, entry: _Entry, weight: Tensor) -> None:
    bits = bits_of(weight)
    for start in range(0, bits.size, CHUNK):
        chunk = bits[start : start + CHUNK]
        if entry.part == "whole":
            part = chunk
        elif entry.part == "values":
            part = chunk[np.flatnonzero(chunk != 0)]  # four times as fast as a boolean index
        else:
            part = mask_bits(torch.from_numpy(chunk != 0))
        file.write(part.data)


def bits_of(weight: Tensor) -> Bits:
    """The same memory as whole numbers, flat."""
    bits: Bits = weight.reshape(-1).view(_BITS[weight.dtype.itemsize]).numpy()
    return bits
