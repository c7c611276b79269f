import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPTokenizer

from bksdm.data.index import build_index
from bksdm.data.order import Order
from bksdm.data.samples import Pictures, SampleSettings, ShardDataset, whole
from bksdm.data.shards import ShardReader
from bksdm.data.transforms import pixel_tensor
from bksdm.models.source import embedded_folder


def dataset(folder: Path, **changes: object) -> ShardDataset:
    index = build_index(f"{folder}/train-*.tar")
    order = Order(counts=index.counts, seed=3, global_batch=4)
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer")
    settings = SampleSettings(
        tokenizer=tokenizer, kind=Pictures(16), flip=True, caption_dropout=0.5
    )
    return ShardDataset(ShardReader(index), order, replace(settings, **changes))


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_workers_change_nothing_and_a_late_start_gives_the_tail(shards: Path, workers: int) -> None:
    data = dataset(shards)
    batches = [range(i, i + 4) for i in range(0, 40, 4)]
    expected = [data.__getitems__(positions) for positions in batches]
    loaded = list(
        DataLoader(data, batch_sampler=batches[3:], num_workers=workers, collate_fn=whole)
    )
    for found, wanted in zip(loaded, expected[3:], strict=True):
        assert torch.equal(found.pixels, wanted.pixels)
        assert torch.equal(found.tokens, wanted.tokens)
        assert torch.equal(found.seeds, wanted.seeds)


def test_dropped_captions_are_the_empty_prompt(shards: Path) -> None:
    data = dataset(shards, caption_dropout=1.0)
    empty = data.settings.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(data[0].tokens, empty)
    kept = dataset(shards, caption_dropout=0.0)
    assert not torch.equal(kept[0].tokens, empty)
    assert torch.equal(kept[0].seeds, data[0].seeds)


def test_half_of_the_pictures_are_flipped_and_only_when_asked(shards: Path) -> None:
    flipped, plain = dataset(shards), dataset(shards, flip=False)
    pairs = [(flipped[i].pixels, plain[i].pixels) for i in range(40)]
    changed = [not torch.equal(a, b) for a, b in pairs]
    assert all(torch.equal(a.flip(-1), b) for (a, b), c in zip(pairs, changed, strict=True) if c)
    assert 8 < sum(changed) < 32


def test_a_bad_sample_is_replaced_and_said(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "own"))
    data = dataset(folder, flip=False)
    position = next(p for p in range(40) if data.order.sample(p) == (0, 5))
    following = next(p for p in range(100) if data.order.sample(p) == (0, 6))
    wanted = data[following].pixels
    offset, size = data.reader.index.shards[0].images[5]
    content = bytearray((folder / "train-00000.tar").read_bytes())
    content[offset : offset + size] = b"\0" * size
    (folder / "train-00000.tar").write_bytes(content)
    assert torch.equal(dataset(folder, flip=False)[position].pixels, wanted)
    assert "0005" in caplog.text


@pytest.mark.parametrize("size", [(20, 40), (40, 20), (16, 16), (7, 100)])
def test_pictures_are_cropped_in_the_middle(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (255, 0, 0))
    pixels = pixel_tensor(image, resolution=16, flip=False)
    assert pixels.shape == (3, 16, 16)
    assert pixels[0].unique().tolist() == [1]
    assert pixels[1].unique().tolist() == [-1]
