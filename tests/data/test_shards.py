import os
from dataclasses import replace
from pathlib import Path

import pytest

from bksdm.data.decode import BadSampleError, decode_caption, decode_picture
from bksdm.data.index import build_index
from bksdm.data.shards import ShardReader
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.errors import InputError
from tests.data.hostile import good, write_tar
from tests.data.servers import Nginx


def reader(folder: Path) -> ShardReader:
    return ShardReader(build_index(f"{folder}/*.tar"))


def test_pictures_come_back_as_they_were_drawn(shards: Path) -> None:
    found = ShardReader(build_index(f"{shards}/validation-*.tar"))
    assert decode_picture(found.read(0, 3, "image")).size == (64, 64)
    assert decode_caption(found.read(0, 3, "caption")).endswith("background")


def test_a_part_that_is_not_there_is_a_bad_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", good(1))
    with pytest.raises(BadSampleError, match="no moments"):
        reader(tmp_path).read(0, 0, "moments")


def test_a_shard_that_disappears_is_named_and_one_that_is_open_stays(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", good(2))
    found = reader(tmp_path)
    found.read(0, 0, "image")
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    assert found.read(0, 1, "caption") == b"number 1"
    with pytest.raises(InputError, match=r"b\.tar has gone; put it back"):
        found.read(1, 0, "image")


def test_a_shard_that_is_cut_off_during_the_run_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", good(2))
    found = reader(tmp_path)
    found.read(0, 0, "image")
    os.truncate(path, 600)
    with pytest.raises(InputError, match=r"a\.tar was cut off"):
        found.read(0, 1, "image")


def test_a_shard_that_its_record_does_not_describe_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", good(2))
    (tmp_path / "a_stats.json").write_text('{"successes": 3}')
    with pytest.raises(InputError, match=r"holds 2 samples, 3 by its _stats"):
        reader(tmp_path).read(0, 0, "image")


def test_few_files_stay_open(tmp_path: Path) -> None:
    for number in range(8):
        write_tar(tmp_path / f"{number}.tar", good(1, first=number))
    found = replace(reader(tmp_path), max_open=3)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for number in range(8):
            assert found.read(number, 0, "caption") == f"number {number}".encode()
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_an_evicted_shard_is_fetched_again(nginx: Nginx, served: Path, tmp_path: Path) -> None:
    for number in range(4):
        write_tar(served / f"{number}.tar", good(1, first=number))
    size = (served / "0.tar").stat().st_size
    store = ShardStore(CacheSettings(folder=str(tmp_path / "cache"), max_gb=2.5 * size / 1e9))
    found = ShardReader(build_index(f"{nginx.url}/{served.name}/{{0..3}}.tar", store=store), store)
    assert found.remote
    for _ in range(2):
        for number in range(4):
            assert found.read(number, 0, "caption") == f"number {number}".encode()
            fresh = ShardReader(found.index, store)
            assert fresh.read(number, 0, "caption") == f"number {number}".encode()
    assert len(list((tmp_path / "cache").glob("*.tar"))) <= 2
