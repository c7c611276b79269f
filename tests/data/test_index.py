import json
import os
import shutil
from pathlib import Path

import pytest

from bksdm.data.index import ShardIndex, build_index, changes
from bksdm.data.record import Record, Rejected, parse_record, record_name
from bksdm.data.shards import ShardReader
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.data.table import TABLE_NAME
from bksdm.errors import InputError
from tests.data.hostile import good, write_tar
from tests.data.servers import Nginx


@pytest.fixture
def own(shards: Path, tmp_path: Path) -> Path:
    """A copy of the shards that a test may damage."""
    return Path(shutil.copytree(shards, tmp_path / "own"))


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """Three shards with records, as img2dataset leaves them."""
    for shard in range(3):
        path = write_tar(tmp_path / "laion" / f"{shard:05d}.tar", good(4 + shard))
        stats = {"count": 10, "successes": 4 + shard, "status_dict": {"success": 4 + shard}}
        path.with_name(f"{shard:05d}_stats.json").write_text(json.dumps(stats))
    return tmp_path / "laion"


def test_the_fingerprint_follows_content_not_place(shards: Path, own: Path) -> None:
    pattern = "train-*.tar"
    here, there = build_index(f"{shards}/{pattern}"), build_index(f"{own}/{pattern}")
    assert here.fingerprint == there.fingerprint
    (own / "train-00002.tar").unlink()
    assert here.fingerprint != build_index(f"{own}/{pattern}").fingerprint


def test_a_stale_table_is_made_again(own: Path) -> None:
    before = build_index(f"{own}/train-*.tar")
    shutil.copy(own / "validation-00000.tar", own / "train-00001.tar")
    assert build_index(f"{own}/train-*.tar").counts == (16, 8, 16)
    (own / TABLE_NAME).write_text("not json")
    assert build_index(f"{own}/train-*.tar").counts == (16, 8, 16)
    assert before.counts == (16, 16, 16)


def test_a_known_shard_is_not_looked_into(downloaded: Path) -> None:
    index = build_index(f"{downloaded}/*.tar")
    stat = (downloaded / "00001.tar").stat()
    (downloaded / "00001.tar").write_bytes(bytes(stat.st_size))
    os.utime(downloaded / "00001.tar", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert build_index(f"{downloaded}/*.tar") == index


def test_records_save_the_scan(downloaded: Path) -> None:
    for path in downloaded.glob("*.tar"):
        path.write_bytes(b"no tar at all")  # is not opened
    assert build_index(f"{downloaded}/*.tar").counts == (4, 5, 6)


def test_an_unfinished_shard_is_named(downloaded: Path) -> None:
    (downloaded / "00001_stats.json").unlink()
    with pytest.raises(InputError, match=r"00001\.tar has no _stats\.json.*not finished"):
        build_index(f"{downloaded}/*.tar")
    build_index(f"{downloaded}/00000.tar")
    assert build_index(f"{downloaded}/{{00000,00002}}.tar").counts == (4, 6)


def test_a_shard_added_later_and_unfinished_is_named(downloaded: Path) -> None:
    build_index(f"{downloaded}/*.tar")
    write_tar(downloaded / "00003.tar", good(1))
    with pytest.raises(InputError, match=r"00003\.tar"):
        build_index(f"{downloaded}/*.tar")


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "no json", '{"successes": -5}', '{"successes": Infinity}', '{"successes": true}',
     '{"successes": 1, "latents": [1]}', '{"successes": 1, "rejected": 3}', "[" * 100_000],
    ids=["nothing", "list", "text", "negative", "infinite", "bool", "latents", "rejected", "deep"],
)  # fmt: skip
def test_a_broken_record_is_named(downloaded: Path, content: str) -> None:
    (downloaded / "00001_stats.json").write_text(content)
    with pytest.raises(InputError, match=r"00001_stats\.json cannot be read"):
        build_index(f"{downloaded}/*.tar")


def test_a_record_comes_back_as_it_was() -> None:
    record = Record(7, (Rejected("a", "no caption"),), "ab" * 32, {"resolution": 64})
    assert parse_record(record.to_json().encode(), shard="a.tar") == record
    assert record_name("00000.tar") == "00000_stats.json"


def test_a_folder_that_cannot_be_written_keeps_its_table_in_the_cache(
    own: Path, tmp_path: Path
) -> None:
    (own / TABLE_NAME).unlink(missing_ok=True)
    (own / TABLE_NAME).mkdir()  # root may write into read-only folders
    store = ShardStore(CacheSettings(folder=str(tmp_path / "cache")))
    first = build_index(f"{own}/train-*.tar", store=store)
    assert list((tmp_path / "cache").glob("index-*.json"))
    assert build_index(f"{own}/train-*.tar", store=store) == first


def test_several_folders_make_one_data_set(shards: Path, own: Path) -> None:
    index = build_index([f"{shards}/train-*.tar", f"{own}/train-*.tar"])
    assert index.counts == (16,) * 6
    assert len(index.record()["shards"]) == 6


def test_what_changed_is_told(own: Path) -> None:
    before = build_index(f"{own}/train-*.tar").record()
    assert changes(before, before) == ""
    shutil.copy(own / "validation-00000.tar", own / "train-00001.tar")
    (own / "train-00002.tar").rename(own / "train-00009.tar")
    assert changes(before, build_index(f"{own}/train-*.tar").record()) == (
        "1 shard missing (train-00002.tar), 1 shard new (train-00009.tar), 1 shard changed"
        " (train-00001.tar)"
    )
    index = build_index(f"{own}/train-*.tar")
    turned = ShardIndex(index.shards[::-1])
    assert changes(index.record(), turned.record()) == "the same shards in another order"


def test_a_recaptioned_shard_is_told_though_size_and_record_stay(downloaded: Path) -> None:
    index = build_index(f"{downloaded}/*.tar")
    for shard in range(3):
        ShardReader(index).read(shard, 0, "image")  # leaves the table of contents beside it
    path = downloaded / "00001.tar"
    size = path.stat().st_size
    os.utime(path, ns=(1, 1))
    assert build_index(f"{downloaded}/*.tar").record() == index.record()
    write_tar(path, [*good(4), ("0004.png", good(1)[0][1]), ("0004.txt", b"other words")])
    assert path.stat().st_size == size
    told = changes(index.record(), build_index(f"{downloaded}/*.tar").record())
    assert told == "1 shard changed (00001.tar)"


def test_shards_of_one_name_two_folders_deep_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a/x", "b/x"):
        write_tar(tmp_path / folder / "0.tar", good(2))
    record = build_index(f"{tmp_path}/*/x/*.tar").record()
    assert len(record["shards"]) == 2


def test_what_is_no_file_is_named(downloaded: Path) -> None:
    (downloaded / "z.tar").mkdir()
    with pytest.raises(InputError, match=r"z\.tar is a folder, no shard"):
        build_index(f"{downloaded}/*.tar")
    (downloaded / "z.tar").rmdir()
    (downloaded / "z.tar").symlink_to("/nowhere")
    with pytest.raises(InputError, match=r"z\.tar is a link to nothing"):
        build_index(f"{downloaded}/*.tar")


def test_shards_of_different_kinds_are_refused(own: Path) -> None:
    meta = [("__bksdm__/latents.json", b'{"resolution": 64}')]
    write_tar(own / "train-00003.tar", meta)
    with pytest.raises(InputError, match="different kinds"):
        _ = build_index(f"{own}/train-*.tar").format


def test_a_web_server_is_indexed_from_records_or_by_scan(
    nginx: Nginx, served: Path, downloaded: Path, tmp_path: Path
) -> None:
    store = ShardStore(CacheSettings(folder=str(tmp_path / "cache")))
    shutil.copytree(downloaded, served / "laion")
    for path in downloaded.glob("*.tar"):
        shutil.copy(path, served / path.name)
    url, pattern = f"{nginx.url}/{served.name}", "{00000..00002}.tar"
    recorded = build_index(f"{url}/laion/{pattern}", store=store)
    assert recorded.counts == (4, 5, 6)
    assert not list((tmp_path / "cache").glob("*.tar"))
    scanned = build_index(f"{url}/{pattern}", store=store)
    assert scanned.counts == (4, 5, 6)
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 3
    assert build_index(f"{url}/{pattern}", store=store) == scanned


def test_a_published_table_is_believed(
    nginx: Nginx, served: Path, downloaded: Path, tmp_path: Path
) -> None:
    store = ShardStore(CacheSettings(folder=str(tmp_path / "cache")))
    local = build_index(f"{downloaded}/*.tar")
    shutil.copy(downloaded / TABLE_NAME, served / TABLE_NAME)
    url = f"{nginx.url}/{served.name}/{{00000..00002}}.tar"
    assert build_index(url, store=store).fingerprint == local.fingerprint
