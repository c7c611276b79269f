from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from bksdm.data.index import ShardIndex, build_index
from bksdm.data.order import Order
from bksdm.data.samples import Pictures, SampleSettings, ShardDataset
from bksdm.data.selection import Selection, selection_of
from bksdm.data.shards import ShardReader
from bksdm.errors import InputError
from bksdm.models.source import embedded_folder
from tests.data.hostile import good, write_tar

TOKENIZER = CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer")


def selected(folder: Path, samples: list[int], **order: object) -> tuple[ShardDataset, ShardIndex]:
    index = build_index(f"{folder}/train-*.tar")
    held, rows = Selection(np.array(samples), index.fingerprint).part_of(index)
    settings = SampleSettings(tokenizer=TOKENIZER, kind=Pictures(16), flip=False, caption_dropout=0)
    of = Order(counts=list(map(len, rows)), seed=3, **({"global_batch": 4} | order))  # type: ignore[arg-type]
    return ShardDataset(ShardReader(held), of, settings, rows=rows), index


def test_a_file_reads_as_it_was_written(tmp_path: Path) -> None:
    wrote = Selection(np.array([0, 3, 40]), "abc")
    wrote.write(tmp_path / "experts" / "0" / "samples.npz")
    read = Selection.read(tmp_path / "experts" / "0" / "samples.npz")
    assert read.samples.tolist() == [0, 3, 40]
    assert read.samples.dtype == np.int64
    assert read.fingerprint == wrote.fingerprint
    assert read.fingerprint != Selection(np.array([0, 3, 41]), "abc").fingerprint
    assert [path.name for path in (tmp_path / "experts" / "0").iterdir()] == ["samples.npz"]


def test_each_selected_sample_comes_once_an_epoch_and_no_other(shards: Path) -> None:
    wanted = [0, 1, 15, 33, 34, 40, 46, 47]  # none of the second shard's
    data, _ = selected(shards, wanted)
    whole = ShardReader(build_index(f"{shards}/train-*.tar"))
    names = [(whole.index.shards[n // 16].name, whole.key(n // 16, n % 16)) for n in wanted]
    for epoch in range(2):
        found = [data.sample(position) for position in range(8 * epoch, 8 * epoch + 8)]
        reader = data.reader
        assert sorted(names) == sorted(
            (reader.index.shards[shard].name, reader.key(shard, row)) for shard, row in found
        )
    assert len(data.__getitems__(range(8)).seeds) == 8


def test_a_bad_sample_is_replaced_by_a_selected_one_if_need_be_of_the_next_shard(
    tmp_path: Path,
) -> None:
    write_tar(
        tmp_path / "train-00000.tar", [*good(2), ("x.png", b""), ("x.txt", b"x"), *good(2, first=5)]
    )
    write_tar(tmp_path / "train-00001.tar", good(4, first=20))
    data, _ = selected(tmp_path, [2, 6, 7], global_batch=3)
    positions = {data.sample(position): position for position in range(9)}
    stand_in, wanted = data[positions[0, 2]], data[positions[1, 1]]
    assert torch.equal(stand_in.pixels, wanted.pixels)
    assert [fault.key for fault in stand_in.faults] == ["x"]


def test_what_is_selected_of_other_data_is_refused(shards: Path, tmp_path: Path) -> None:
    index = build_index(f"{shards}/train-*.tar")
    with pytest.raises(InputError, match="routed on other data"):
        Selection(np.array([1]), "0123").rows(index)
    with pytest.raises(InputError, match="routed on other data"):
        Selection(np.array([48]), index.fingerprint).rows(index)
    with pytest.raises(InputError, match="no sample"):
        Selection(np.array([], dtype=int), index.fingerprint).part_of(index)


def test_what_is_no_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Selection.read(tmp_path / "samples.npz")
    (tmp_path / "text.npz").write_text("nothing")
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez(tmp_path / "other.npz", numbers=np.arange(3))
    np.savez(tmp_path / "wild.npz", samples=np.array([3, 1]), index=np.array("a"))
    for name in ("text.npz", "one.npy", "other.npz", "wild.npz"):
        with pytest.raises(InputError, match=rf"{name}: .*bksdm route"):
            Selection.read(tmp_path / name)
    with pytest.raises(InputError, match="mode=stream"):
        selection_of("samples.npz", mode="stream")
    assert selection_of("all", mode="stream") is None


def test_fewer_samples_than_a_batch_can_be_wrapped(shards: Path) -> None:
    with pytest.raises(InputError, match=r"3 samples to train on.*remainder=wrap"):
        selected(shards, [1, 2, 3])
    data, _ = selected(shards, [1, 2, 3], remainder="wrap")
    assert {data.sample(position)[1] for position in range(4)} == {1, 2, 3}
