import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPTokenizer

from bksdm.batch import Fault
from bksdm.data.exact import Loading
from bksdm.data.faults import AbsentError
from bksdm.data.index import build_index
from bksdm.data.order import Order
from bksdm.data.samples import Pictures, SampleSettings, ShardDataset
from bksdm.data.shards import ShardReader
from bksdm.data.transforms import pixel_tensor
from bksdm.errors import InputError, told_plainly
from bksdm.models.source import embedded_folder
from tests.data.hostile import Member, bomb, good, png, write_tar

TOKENIZER = CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer")


def dataset(folder: Path, **changes: object) -> ShardDataset:
    index = build_index(f"{folder}/train-*.tar")
    order = Order(counts=index.counts, seed=3, global_batch=4)
    settings = SampleSettings(
        tokenizer=TOKENIZER, kind=Pictures(16), flip=True, caption_dropout=0.5
    )
    return ShardDataset(ShardReader(index), order, replace(settings, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workers", "method"), [(0, None), (2, None), (3, "fork"), (2, "forkserver"), (2, "spawn")]
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing_and_a_late_start_gives_the_tail(
    shards: Path, workers: int, method: str | None
) -> None:
    data = dataset(shards)
    batches = [range(i, i + 4) for i in range(0, 40, 4)]
    expected = [data.__getitems__(positions) for positions in batches]
    loading = Loading(workers, method)  # type: ignore[arg-type]
    loaded = list(loading.loader(data, batch_sampler=batches[3:]))
    for found, wanted in zip(loaded, expected[3:], strict=True):
        for name in ("pixels", "tokens", "seeds"):
            assert torch.equal(getattr(found, name), getattr(wanted, name))


def test_dropped_captions_are_the_empty_prompt(shards: Path) -> None:
    data = dataset(shards, caption_dropout=1.0)
    empty = TOKENIZER("", padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(data[0].tokens, empty)
    kept = dataset(shards, caption_dropout=0.0)
    assert not torch.equal(kept[0].tokens, empty)
    assert torch.equal(kept[0].seeds, data[0].seeds)
    assert data[0].captions == kept[0].captions != ("",)  # who routes prompts reads them


def test_half_of_the_pictures_are_flipped_and_only_when_asked(shards: Path) -> None:
    flipped, plain = dataset(shards), dataset(shards, flip=False)
    pairs = [(flipped[i].pixels, plain[i].pixels) for i in range(40)]
    changed = [not torch.equal(a, b) for a, b in pairs]
    assert all(torch.equal(a.flip(-1), b) for (a, b), c in zip(pairs, changed, strict=True) if c)
    assert 8 < sum(changed) < 32


def with_bad(bad: list[Member], folder: Path) -> ShardDataset:
    """Four good samples, a bad one in their middle, four good ones."""
    write_tar(folder / "train-00000.tar", [*good(4), *bad, *good(4, first=4)])
    return dataset(folder, flip=False, caption_dropout=0.0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([("x.png", b""), ("x.txt", b"x")], "empty picture"),
        ([("x.png", png())], "no caption"),
        ([("x.txt", b"x")], "no picture"),
        ([("x.png", png()[:45]), ("x.txt", b"x")], "broken picture"),
        ([("x.jpg", b"<html></html>"), ("x.txt", b"x")], "not a picture"),
        ([("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n"), ("x.txt", b"x")], "not a picture"),
        ([("x.png", bomb()), ("x.txt", b"x")], "too many pixels"),
        ([("x.png", png()), ("x.txt", b"\xff\xfe\x00")], "caption is not UTF-8"),
        ([("../../x.png", png()), ("../../x.txt", b"x")], "unsafe name"),
        ([("0003.png", png()), ("0003.txt", b"x")], "duplicate key"),
        ([("x.pkl", b"cos\nsystem\n(S'touch owned'\ntR."), ("x.txt", b"x")], "no picture"),
        ([("x.pyd", b"cos\nsystem\n(S'touch owned'\ntR.")], "no picture"),
    ],
    ids=[
        "zero bytes", "no caption", "no picture", "truncated", "wrong extension", "postscript",
        "30,000 x 30,000", "not UTF-8", "../../x", "duplicate", "pickle", "pyd",
    ],
)  # fmt: skip
def test_a_bad_sample_is_replaced_by_its_neighbour_and_reported(
    tmp_path: Path, bad: list[Member], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = with_bad(bad, tmp_path)
    where = {data.order.sample(position)[1]: position for position in range(8)}
    where |= {data.order.sample(position)[1]: position for position in range(8, 64)}
    stand_in, wanted = data[where[4]], data[where[5]]
    assert torch.equal(stand_in.pixels, wanted.pixels)
    assert torch.equal(stand_in.tokens, wanted.tokens)
    key = bad[0][0].rpartition(".")[0]
    assert stand_in.faults == (Fault("train-00000.tar", key, reason),)
    assert not wanted.faults
    assert len(data.__getitems__(range(8))) == 8
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path.parent.parent / "x.png").exists()


def test_a_wrong_extension_is_no_fault_if_the_picture_can_be_read(tmp_path: Path) -> None:
    data = with_bad([("x.jpg", png((0, 0, 255))), ("x.txt", b"x")], tmp_path)
    assert not data.__getitems__(range(8)).faults


def test_pickles_beside_a_picture_are_not_touched(tmp_path: Path) -> None:
    data = with_bad([*good(1, first=50), ("0050.pkl", b"cos\nsystem\n(S'exit 1'\ntR.")], tmp_path)
    assert not data.__getitems__(range(8)).faults


def test_a_shard_without_a_good_sample_stops_the_run(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-00000.tar", [(f"{i}.txt", b"x") for i in range(9)])
    with pytest.raises(InputError, match=r"train-00000\.tar holds no readable sample \(no picture"):
        dataset(tmp_path)[0]


def test_an_empty_shard_is_passed_over(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-00000.tar", [])
    write_tar(tmp_path / "train-00001.tar", good(9))
    assert len(dataset(tmp_path).__getitems__(range(20))) == 20


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_fewer_shards_than_workers(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-00000.tar", good(8))
    batches = [range(i, i + 4) for i in range(0, 24, 4)]
    loaded = list(Loading(4, None).loader(dataset(tmp_path), batch_sampler=batches))
    assert [len(batch) for batch in loaded] == [4] * 6


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_error_of_a_worker_is_the_error_alone(tmp_path: Path, method: str) -> None:
    path = write_tar(tmp_path / "train-00000.tar", good(8))
    data = dataset(tmp_path)
    path.unlink()
    loader = DataLoader(
        data,
        batch_sampler=[range(4)],
        num_workers=1,
        multiprocessing_context=multiprocessing.get_context(method),
    )
    with pytest.raises(InputError) as caught:
        next(iter(loader))
    assert str(caught.value).startswith(f"shard {path} has gone")


class FullDisk(ShardDataset):
    """A dataset whose cache finds no space."""

    def _batch(self, positions: object) -> NoReturn:
        del positions
        with open("/dev/full", "wb") as file:
            file.write(bytes(10_000_000))
        raise AssertionError


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_in_a_worker_is_told(shards: Path, workers: int) -> None:
    data = dataset(shards)
    full = FullDisk(data.reader, data.order, data.settings)
    with pytest.raises(InputError, match=r"^no space left on the device"):
        next(iter(Loading(workers, None).loader(full, batch_sampler=[range(4)])))


def test_what_a_worker_raises_of_a_kind_of_input_error_is_the_message_alone() -> None:
    with pytest.raises(InputError) as caught, told_plainly():
        raise AbsentError("nothing at https://host/a.tar")
    assert type(caught.value) is InputError


@pytest.mark.parametrize("size", [(20, 40), (40, 20), (16, 16), (7, 100), (1, 3000)])
def test_pictures_are_cropped_in_the_middle(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (255, 0, 0))
    pixels = pixel_tensor(image, resolution=16, flip=False)
    assert pixels.shape == (3, 16, 16)
    assert pixels[0].unique().tolist() == [1]
    assert pixels[1].unique().tolist() == [-1]
