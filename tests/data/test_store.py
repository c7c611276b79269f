import os
import pickle
import random
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from bksdm.data.eviction import make_room, part_path, shard_lock
from bksdm.data.sidecar import SIDECAR
from bksdm.data.store import GB, CacheSettings, ShardStore
from bksdm.errors import InputError
from tests.data.servers import Nginx, flaky_proxy

SIZE = 4 * 2**16
FORK = get_context("fork")

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def shards(served: Path) -> list[bytes]:
    """What lies at 0.tar to 5.tar."""
    contents = [random.Random(number).randbytes(SIZE) for number in range(6)]
    for number, content in enumerate(contents):
        (served / f"{number}.tar").write_bytes(content)
    return contents


def store_of(folder: Path, *, shards: float = 1000, **more: object) -> ShardStore:
    """A cache for so many shards."""
    settings = CacheSettings(folder=str(folder), max_gb=shards * SIZE / GB, **more)  # type: ignore[arg-type]
    return ShardStore(settings)


def cached(folder: Path) -> list[str]:
    """Names of the shards in a cache, without their hashes."""
    return sorted(path.name.partition("-")[2] for path in folder.glob("[!.]*"))


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "wrong",
    [{"folder": " "}, {"max_gb": 0}, {"max_gb": float("nan")}, {"max_gb": "1"}, {"prefetch": -1}],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is|folder is empty"):
        CacheSettings(**wrong)  # type: ignore[arg-type]


def test_local_shards_stay_where_they_are(tmp_path: Path) -> None:
    assert store_of(tmp_path / "cache").path("~/0.tar") == Path.home() / "0.tar"
    assert not (tmp_path / "cache").exists()


def test_a_remote_shard_is_fetched_once(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    with flaky_proxy(nginx.port) as proxy:
        url, store = f"{proxy.url}/{served.name}/0.tar", store_of(tmp_path / "cache")
        path = store.path(url)
        assert path.read_bytes() == shards[0]
        assert store.path(url) == path
        assert pickle.loads(pickle.dumps(store)).path(url) == path
        assert proxy.body_bytes == SIZE


def test_shards_of_one_name_in_two_places_are_two(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    (served / "other").mkdir()
    (served / "other" / "0.tar").write_bytes(shards[1])
    store, url = store_of(tmp_path / "cache"), f"{nginx.url}/{served.name}"
    assert store.path(f"{url}/0.tar").read_bytes() == shards[0]
    assert store.path(f"{url}/other/0.tar").read_bytes() == shards[1]


def test_processes_that_want_the_same_shard_fetch_it_once(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    with flaky_proxy(nginx.port) as proxy:
        url, store = f"{proxy.url}/{served.name}/0.tar", store_of(tmp_path / "cache")
        workers = [FORK.Process(target=store.path, args=(url,)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(20)
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert proxy.body_bytes == SIZE
        assert store.path(url).read_bytes() == shards[0]


def test_the_bound_holds_and_the_least_recently_used_goes(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    url, store = f"{nginx.url}/{served.name}", store_of(tmp_path / "cache", shards=3.5)
    for number in (0, 1, 2, 0, 3, 4, 0, 5):
        path = store.path(f"{url}/{number}.tar")
        path.with_name(path.name + SIDECAR).write_bytes(b"toc")
        assert sum(p.stat().st_size for p in (tmp_path / "cache").iterdir()) <= 3.5 * SIZE
    left = ["0.tar", "4.tar", "5.tar"]
    assert cached(tmp_path / "cache") == sorted([*left, *(n + SIDECAR for n in left)])


def test_use_does_not_change_the_modification_time(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    url, store = f"{nginx.url}/{served.name}/0.tar", store_of(tmp_path / "cache")
    before = store.path(url).stat()
    after = store.path(url).stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_atime_ns > before.st_atime_ns


def test_an_evicted_shard_stays_readable_where_it_is_open(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    url, store = f"{nginx.url}/{served.name}", store_of(tmp_path / "cache", shards=1)
    with store.open(f"{url}/0.tar") as file:
        worker = FORK.Process(target=store.path, args=(f"{url}/1.tar",))
        worker.start()
        worker.join(20)
        assert cached(tmp_path / "cache") == ["1.tar"]
        assert file.read() == shards[0]


def test_a_shard_larger_than_the_cache_is_refused(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    store = store_of(tmp_path / "cache", shards=0.5, allow_pipe=True)
    with pytest.raises(InputError, match=r"0\.tar has 0\.000262 GB, more than .*=0\.000131072\)"):
        store.path(f"{nginx.url}/{served.name}/0.tar")
    with pytest.raises(InputError, match="more than the whole shard cache"):
        store.path(f"pipe:head -c {SIZE} /dev/zero")
    assert not any(path.stat().st_size for path in (tmp_path / "cache").iterdir())


def test_what_a_killed_download_left_is_gone_on_with(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    with flaky_proxy(nginx.port, "", "", "stall") as proxy:
        url, store = f"{proxy.url}/{served.name}/0.tar", store_of(tmp_path / "cache")
        worker = FORK.Process(target=store.path, args=(url,))
        worker.start()
        assert proxy.stalled.wait(10)
        assert worker.pid
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(10)
        assert cached(tmp_path / "cache") == []
        assert store.path(url).read_bytes() == shards[0]
        assert proxy.body_bytes < 1.5 * SIZE


def test_dead_downloads_count_and_live_ones_stay(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    url, store = f"{nginx.url}/{served.name}", store_of(tmp_path / "cache", shards=2)
    (tmp_path / "cache").mkdir()
    dead, live = (
        part_path(tmp_path / "cache" / name)
        for name in ("0123456789ab-dead.tar", "0123456789ab-live.tar")
    )
    for part in (dead, live):
        part.write_bytes(bytes(SIZE))
    with shard_lock(tmp_path / "cache" / "0123456789ab-live.tar"):
        store.path(f"{url}/0.tar")
    assert not dead.exists()
    assert live.exists()


def test_other_bytes_than_the_index_promises_are_never_kept(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    url, store = f"{nginx.url}/{served.name}/0.tar", store_of(tmp_path / "cache")
    with pytest.raises(InputError, match="expected 00"):
        store.path(url, sha256="00")
    with pytest.raises(InputError, match=f"has {SIZE} bytes, its index says 5"):
        store.path(url, size=5)
    assert cached(tmp_path / "cache") == []


def test_a_cached_shard_of_another_size_is_fetched_anew(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    url, store = f"{nginx.url}/{served.name}/0.tar", store_of(tmp_path / "cache")
    path = store.path(url)
    path.write_bytes(b"old")
    path.with_name(path.name + SIDECAR).write_bytes(b"old")
    assert store.path(url, size=SIZE).read_bytes() == shards[0]
    assert cached(tmp_path / "cache") == ["0.tar"]


def test_prefetched_shards_wait_in_the_cache(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    store, url = store_of(tmp_path / "cache"), f"{nginx.url}/{served.name}"
    wanted = [(f"{url}/{number}.tar", SIZE, "") for number in range(5)]
    store.prefetch([*wanted, (f"{url}/missing.tar", None, ""), ("pipe:exit 1", None, "")])
    store.prefetch(wanted)
    until(lambda: len(cached(tmp_path / "cache")) == 5)
    for number, (location, size, _) in enumerate(wanted):
        assert store.path(location, size=size).read_bytes() == shards[number]
        assert len(nginx.asked("GET", f"{served.name}/{number}.tar")) == 4  # chunks
    with pytest.raises(InputError, match="nothing at"):
        store.path(f"{url}/missing.tar")


def test_prefetching_leaves_what_another_fetches(
    nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    store, url = store_of(tmp_path / "cache"), f"{nginx.url}/{served.name}"
    store.path(f"{url}/0.tar")
    first = store.path(f"{url}/1.tar")
    first.unlink()
    with shard_lock(first):
        store.prefetch([(f"{url}/1.tar", None, ""), (f"{url}/2.tar", None, "")])
        until(lambda: "2.tar" in cached(tmp_path / "cache"))
    assert cached(tmp_path / "cache") == ["0.tar", "2.tar"]


def read_both(store: ShardStore, url: str) -> None:
    """What a worker does: prefetch one shard, wait for it, read another."""
    store.prefetch([(f"{url}/1.tar", None, "")])
    until(lambda: "1.tar" in cached(store.folder))
    store.path(f"{url}/2.tar")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_store_in_use_goes_into_workers(
    start: str, nginx: Nginx, served: Path, shards: list[bytes], tmp_path: Path
) -> None:
    store, url = store_of(tmp_path / "cache"), f"{nginx.url}/{served.name}"
    store.prefetch([(f"{url}/0.tar", None, "")])
    store.path(f"{url}/0.tar")
    worker = get_context(start).Process(target=read_both, args=(store, url))
    worker.start()
    worker.join(30)
    assert worker.exitcode == 0
    assert cached(tmp_path / "cache") == ["0.tar", "1.tar", "2.tar"]


def test_a_pipe_needs_leave_here_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cache\.allow_pipe=true"):
        store_of(tmp_path / "cache").path("pipe:echo 0.tar")
    store = store_of(tmp_path / "cache", allow_pipe=True)
    assert store.path("pipe:echo 0.tar").read_text() == "0.tar\n"
    assert cached(tmp_path / "cache") == ["0.tar"]


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(InputError, match="folder /dev/null/cache cannot be made"):
        store_of(Path("/dev/null/cache")).path("http://127.0.0.1:1/0.tar")


def test_what_is_not_the_caches_own_is_never_removed(tmp_path: Path) -> None:
    mine = ["thesis.docx", "model.ckpt", "0123456789ab.tar", "abc-x.tar"]
    for name in mine:
        (tmp_path / name).write_bytes(bytes(1000))
    (tmp_path / "0123456789ab-folder").mkdir()
    (tmp_path / "0123456789ab-old.tar").write_bytes(bytes(1000))
    make_room(tmp_path, limit=500, wanted=500, keep="")
    assert not (tmp_path / "0123456789ab-old.tar").exists()
    assert all((tmp_path / name).exists() for name in [*mine, "0123456789ab-folder"])
