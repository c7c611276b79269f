"""The packed format against a naive second implementation of it, which loops over bits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bksdm.errors import InputError
from bksdm.export.packed import CHUNK, packed_bytes, write_packed
from bksdm.export.unpacked import packed_dtype, packed_tensors, read_packed

WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def half_zero(*shape: int, dtype: torch.dtype = torch.float32, keep: float = 0.5) -> Tensor:
    """Random, with zeros."""
    rng = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(shape, generator=rng)
    return weight.masked_fill(torch.rand(shape, generator=rng) >= keep, 0).to(dtype)


def odd() -> dict[str, Tensor]:
    """What is easily got wrong."""
    signed = half_zero(13, 7)
    signed[0, :4] = torch.tensor([-0.0, float("nan"), float("-inf"), 1e-45])
    return {
        "signed": signed,
        "half": half_zero(5, 3, 3, 3, dtype=torch.float16),
        "bfloat": half_zero(3, 11, dtype=torch.bfloat16),
        "double": half_zero(19, dtype=torch.float64),
        "nothing": torch.zeros(17, 3),
        "everything": torch.ones(9, 5),
        "scalar": torch.tensor(0.0),
        "empty": torch.zeros(0, 4),
        "channels last": half_zero(4, 6, 3, 3).to(memory_format=torch.channels_last),
        "transposed": half_zero(6, 10).T,
        "several chunks": half_zero(3, CHUNK // 2 + 3, dtype=torch.float16),
        "positions": torch.arange(7),
        "flags": torch.tensor([True, False, True]),
    }


def bits(tensor: Tensor) -> list[int]:
    """Every weight's bits as a number."""
    flat = tensor.contiguous().reshape(-1)
    words = WORDS.get(flat.dtype.itemsize)
    return (flat.view(words) if words else flat).tolist()


def naive(path: Path) -> dict[str, Tensor]:
    """Read a packed file without any of our code."""
    entries = load_file(path)
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["packed"])
    for name, each in said.items():
        mask, values = entries.pop(f"{name}.mask").tolist(), entries.pop(f"{name}.values")
        dense = torch.zeros(each["shape"], dtype=getattr(torch, each["dtype"]))
        flat, kept = dense.view(-1), 0
        for position in range(flat.numel()):
            if mask[position // 8] >> position % 8 & 1:
                flat[position] = values[kept]
                kept += 1
        assert kept == len(values)
        entries[name] = dense
    return entries


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype), name
        assert bits(found[name]) == bits(tensor), name


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A file of which all is packed that can be."""
    write_packed(odd(), tmp_path / "packed.safetensors", names=list(odd()))
    return tmp_path / "packed.safetensors"


def test_what_is_read_is_bit_equal_to_what_was_written(packed: Path) -> None:
    assert_same(read_packed(packed), odd())


def test_a_naive_reader_agrees(tmp_path: Path) -> None:
    few = {name: tensor for name, tensor in odd().items() if name != "several chunks"}
    write_packed(few, tmp_path / "f", names=list(few))
    assert_same(naive(tmp_path / "f"), few)


def test_a_naive_writer_is_read(tmp_path: Path) -> None:
    """Of five weights with the second and the last kept."""
    said = {"w": {"shape": [1, 5], "dtype": "float16"}}
    metadata = {"format": "bksdm-packed", "version": "1", "packed": json.dumps(said)}
    entries = {
        "w.mask": torch.tensor([0b10010], dtype=torch.uint8),
        "w.values": torch.tensor([2.0, -3.0], dtype=torch.float16),
    }
    save_file(entries, tmp_path / "f", metadata=metadata)
    assert read_packed(tmp_path / "f")["w"].tolist() == [[0, 2, 0, 0, -3]]


def test_the_size_is_arithmetic(tmp_path: Path) -> None:
    for keep in (0.1, 0.5, 0.9):
        for dtype in (torch.float16, torch.float32):
            weight = half_zero(500, 301, dtype=dtype, keep=keep)
            write_packed({"w": weight}, tmp_path / "f", names=["w"])
            size = (tmp_path / "f").stat().st_size
            ideal = weight.numel() / 8 + weight.count_nonzero().item() * dtype.itemsize
            assert ideal < size < 1.02 * ideal
            assert size == packed_bytes({"w": weight}, names=["w"])


@pytest.mark.parametrize(
    ("dtype", "zeros", "smaller"),
    [
        (torch.float16, 25, False),
        (torch.float16, 26, True),
        (torch.float32, 12, False),
        (torch.float32, 13, True),
    ],
)
def test_only_what_gets_smaller_is_packed(
    tmp_path: Path, dtype: torch.dtype, zeros: int, smaller: bool
) -> None:
    """Of 400 weights: a mask takes 50 bytes."""
    weight = torch.ones(400, dtype=dtype)
    weight[:zeros] = 0
    write_packed({"w": weight, "other": weight}, tmp_path / "f", names=["w"])
    names = {"w.mask", "w.values", "other"} if smaller else {"w", "other"}
    assert set(load_file(tmp_path / "f")) == names


def test_weights_are_rounded_as_they_are_written(tmp_path: Path) -> None:
    tensors = {"w": half_zero(30, 30) * 1e-6, "i": torch.arange(3)}
    half = tensors["w"].half() + 0  # no -0.0: what is rounded to zero is stored as zero
    write_packed(tensors, tmp_path / "f", names=["w"], dtype=torch.float16)
    assert_same(read_packed(tmp_path / "f"), {"w": half, "i": tensors["i"]})
    assert packed_dtype(tmp_path / "f") == torch.float16
    loaded = read_packed(tmp_path / "f", dtype=torch.float32)
    assert_same(loaded, {"w": half.float(), "i": tensors["i"]})


def test_the_largest_tensors_come_first(packed: Path) -> None:
    sizes = [tensor.numel() for _, tensor in packed_tensors(packed)]
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_read_does_not_hang_on_the_file(packed: Path) -> None:
    found = read_packed(packed)
    packed.write_bytes(b"\0" * packed.stat().st_size)
    assert_same(found, odd())


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    for tensors, words in (
        ({"w": torch.tensor([1e6, 0])}, "beyond 65,504"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "expected one of float64"),
        ({"w": torch.zeros(90), "w.mask": torch.ones(2)}, "w.mask would be the name of two"),
    ):
        with pytest.raises(InputError, match=words):
            write_packed(tensors, tmp_path / "f", names=["w"], dtype=torch.float16)
        assert not list(tmp_path.iterdir())


def version(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    said["version"] = "2"


def stock(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    said["format"] = "pt"


def unreadable(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    said["packed"] = said["packed"].replace("float16", "float17")


def no_mask(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    del entries["w.mask"]


def no_values(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    del entries["w.values"]


def twice(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    entries["w"] = torch.zeros(2)


def short_mask(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    entries["w.mask"] = entries["w.mask"][:-1].clone()


def other_mask(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    entries["w.mask"][0] ^= 1


def beyond_the_end(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    entries["w.mask"][-1] |= 128


def more_values(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    entries["w.values"] = torch.ones(entries["w.values"].numel() + 1, dtype=torch.float16)


def wider_values(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    entries["w.values"] = entries["w.values"].float()


def other_shape(entries: dict[str, Tensor], said: dict[str, str]) -> None:
    said["packed"] = said["packed"].replace("[20, 9]", "[20, 19]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (version, "version '2' of the packed format, expected '1'"),
        (stock, "its format is 'pt', expected 'bksdm-packed'"),
        (unreadable, "unreadable"),
        (no_mask, "no w.mask"),
        (no_values, "no w.values"),
        (twice, "w is there packed and unpacked"),
        (short_mask, r"w.mask is \(22,\) of torch.uint8, for 180 weights"),
        (other_mask, r"w has \d+ values, and its mask keeps \d+"),
        (beyond_the_end, "w.mask goes on behind the last weight"),
        (more_values, r"w has \d+ values, and its mask keeps \d+"),
        (wider_values, "of torch.float32, expected one row of torch.float16"),
        (other_shape, "for 380 weights"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None], words: str
) -> None:
    write_packed({"w": half_zero(20, 9, dtype=torch.float16)}, tmp_path / "f", names=["w"])
    entries = load_file(tmp_path / "f")
    with safe_open(tmp_path / "f", "pt") as file:
        said = dict(file.metadata())
    change(entries, said)
    save_file(entries, tmp_path / "g", metadata=said)
    with pytest.raises(InputError, match=words) as told:
        read_packed(tmp_path / "g")
    assert len(str(told.value).splitlines()) == 1


def test_a_cut_file_and_no_file_are_refused(packed: Path, tmp_path: Path) -> None:
    packed.write_bytes(packed.read_bytes()[:-1])
    for path in (packed, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="expected a whole packed file"):
            read_packed(path)
