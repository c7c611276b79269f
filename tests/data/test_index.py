import shutil
import tarfile
from pathlib import Path

import pytest

from bksdm.data.index import TABLE_NAME, build_index
from bksdm.data.shards import ShardReader
from bksdm.errors import InputError


@pytest.fixture
def own(shards: Path, tmp_path: Path) -> Path:
    """A copy of the shards that a test may damage."""
    return Path(shutil.copytree(shards, tmp_path / "own"))


def test_spans_point_at_the_members(shards: Path) -> None:
    shard = scan(shards / "train-00001.tar")
    data = (shards / "train-00001.tar").read_bytes()
    with tarfile.open(shards / "train-00001.tar") as tar:
        for key, (offset, size) in zip(shard.keys, shard.captions, strict=True):
            member = tar.extractfile(f"{key}.txt")
            assert member is not None
            assert data[offset : offset + size] == member.read()


def test_braces_globs_and_lists_name_the_same_shards(shards: Path) -> None:
    by_glob = shard_paths(f"{shards}/train-*.tar")
    assert (
        by_glob
        == shard_paths(f"{shards}/train-{{00000..00002}}.tar")
        == shard_paths([str(path) for path in by_glob])
    )


def test_the_fingerprint_follows_content_not_place(shards: Path, own: Path) -> None:
    pattern = "train-*.tar"
    assert (
        build_index(f"{shards}/{pattern}").fingerprint
        == build_index(f"{own}/{pattern}").fingerprint
    )
    (own / "train-00002.tar").unlink()
    assert (
        build_index(f"{shards}/{pattern}").fingerprint
        != build_index(f"{own}/{pattern}").fingerprint
    )


def test_a_stale_cache_is_rebuilt(own: Path) -> None:
    before = build_index(f"{own}/train-*.tar")
    shutil.copy(own / "validation-00000.tar", own / "train-00001.tar")
    assert build_index(f"{own}/train-*.tar").counts == (16, 8, 16)
    (own / TABLE_NAME).write_text("not json")
    assert build_index(f"{own}/train-*.tar").counts == (16, 8, 16)
    assert before.counts == (16, 16, 16)


def test_missing_shards_are_named() -> None:
    with pytest.raises(InputError, match=r"/nowhere/a\.tar"):
        build_index("/nowhere/a.tar")


def test_a_cut_off_shard_is_named(own: Path) -> None:
    path = own / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"train-00000\.tar"):
        build_index(f"{own}/train-*.tar")


def test_incomplete_samples_are_counted(own: Path, tmp_path: Path) -> None:
    path = own / "train-00000.tar"
    with tarfile.open(path, "a") as tar:
        (tmp_path / "alone.txt").write_text("a caption without a picture")
        tar.add(tmp_path / "alone.txt", "alone.txt")
    shard = scan(path)
    assert (len(shard.keys), shard.incomplete) == (16, 1)


def test_pictures_come_back_as_they_were_drawn(shards: Path) -> None:
    reader = ShardReader(build_index(f"{shards}/validation-*.tar"))
    image, caption = reader.read(0, 3)
    assert image.size == (64, 64)
    assert caption.endswith("background")
