import hashlib
import os
import random
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

from bksdm.data import remote
from bksdm.data.filesystems import filesystem
from bksdm.data.remote import download, read_small, size_of
from bksdm.errors import InputError
from tests.data.servers import Nginx, flaky_proxy, hub_server, rangeless_server

SIZE = 10 * 2**16 + 123  # ten chunks and a bit

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def data(served: Path) -> bytes:
    """What lies at 0.tar."""
    content = random.Random(0).randbytes(SIZE)
    (served / "0.tar").write_bytes(content)
    return content


def test_a_shard_comes_whole_and_in_chunks(
    nginx: Nginx, served: Path, data: bytes, tmp_path: Path
) -> None:
    url = f"{nginx.url}/{served.name}/0.tar"
    download(url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == data
    assert size_of(url) == SIZE
    assert len(nginx.asked("GET", f"{served.name}/0.tar")) == 11


def test_a_cut_connection_costs_a_chunk_not_the_shard(
    nginx: Nginx, served: Path, data: bytes, tmp_path: Path
) -> None:
    with flaky_proxy(nginx.port, "", "", "", "cut", "cut", "503", "", "cut") as proxy:
        download(f"{proxy.url}/{served.name}/0.tar", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == data
    assert SIZE < proxy.body_bytes <= SIZE + 3 * 2**15
    assert proxy.ranges[3:7] == ["bytes=196608-262143"] * 4


def test_what_is_there_is_not_fetched_again(
    nginx: Nginx, served: Path, data: bytes, tmp_path: Path
) -> None:
    (tmp_path / "part").write_bytes(data[: SIZE - 100])
    with flaky_proxy(nginx.port) as proxy:
        download(f"{proxy.url}/{served.name}/0.tar", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == data
    assert proxy.body_bytes == 100


@pytest.mark.parametrize("says_size", [True, False])
@pytest.mark.parametrize("begun", [0, 1000])
def test_a_server_that_ignores_range_works(
    served: Path, data: bytes, tmp_path: Path, *, says_size: bool, begun: int
) -> None:
    (tmp_path / "part").write_bytes(bytes(begun))
    if says_size and begun:
        (tmp_path / "part").write_bytes(data[:begun])
    with rangeless_server(served, says_size=says_size) as url:
        download(f"{url}/0.tar", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == data


def test_out_of_tries_is_one_line(nginx: Nginx, served: Path, data: bytes, tmp_path: Path) -> None:
    with (
        flaky_proxy(nginx.port, *["503"] * 99) as proxy,
        pytest.raises(InputError, match=r"in 6 tries \(HTTP 503 Busy\); check the connection"),
    ):
        download(f"{proxy.url}/{served.name}/0.tar", tmp_path / "part")
    assert len(proxy.ranges) == remote.TRIES


def test_a_dead_server_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1/0\.tar could not be read in 6 tries"):
        download("http://127.0.0.1:1/0.tar?sig=a", tmp_path / "part")


@pytest.mark.parametrize(
    ("name", "said"), [("missing/0.tar", "nothing at .*404"), ("forbidden/0.tar", "403 Forbidden")]
)
def test_missing_and_refused_are_not_tried_again(
    nginx: Nginx, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        download(f"{nginx.url}/{name}?sig=secret", tmp_path / "part")
    assert "secret" not in str(caught.value)
    assert name in str(caught.value)
    assert len(nginx.asked("GET", name)) == 1  # fsspec asks GET where HEAD fails
    assert read_small(f"{nginx.url}/{name}") is None


def test_a_small_object_is_read_through_a_fault(nginx: Nginx, served: Path) -> None:
    (served / "index.json").write_text("{}")
    with flaky_proxy(nginx.port, "503", "cut") as proxy:
        assert read_small(f"{proxy.url}/{served.name}/index.json") == b"{}"


def test_other_bytes_than_promised_are_fetched_once_more_then_refused(
    nginx: Nginx, served: Path, data: bytes, tmp_path: Path
) -> None:
    url, right = f"{nginx.url}/{served.name}/0.tar", hashlib.sha256(data).hexdigest()
    (tmp_path / "part").write_bytes(bytes(1000))  # not the shard's
    download(url, tmp_path / "part", sha256=right.upper())
    assert (tmp_path / "part").read_bytes() == data
    with pytest.raises(InputError, match=f"0.tar has SHA-256 {right}, expected 00"):
        download(url, tmp_path / "part", sha256="00")
    assert not (tmp_path / "part").exists()


def test_a_full_disk_is_not_taken_for_the_network(nginx: Nginx, served: Path, data: bytes) -> None:
    with pytest.raises(OSError, match="No space left"):
        download(f"{nginx.url}/{served.name}/0.tar", Path("/dev/full"))


def test_a_pipe_gives_its_output_or_its_last_word(tmp_path: Path) -> None:
    download("pipe:printf abc", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b"abc"
    with pytest.raises(InputError, match="exit code 3: no such thing"):
        download("pipe:echo no such thing >&2; exit 3", tmp_path / "part")
    with pytest.raises(InputError, match="wrote nothing"):
        download("pipe:true", tmp_path / "part")
    assert size_of("pipe:true") is None
    assert read_small("pipe:true") is None


def test_a_pipe_that_fails_once_is_run_again(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    download(f"pipe:test -e {flag} && printf abc || (touch {flag}; exit 1)", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b"abc"


def test_a_bucket_is_read_in_chunks(bucket: object, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(SIZE)
    bucket.put_object(Bucket="shards", Key="a/0.tar", Body=content)  # type: ignore[attr-defined]
    (tmp_path / "part").write_bytes(content[:5])
    download("s3://shards/a/0.tar", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == content
    assert size_of("s3://shards/a/0.tar") == SIZE
    assert read_small("s3://shards/a/missing.json") is None
    with pytest.raises(InputError, match=r"nothing at s3://shards/a/1\.tar"):
        download("s3://shards/a/1.tar", tmp_path / "part")


def test_any_other_protocol_of_fsspec_works(tmp_path: Path) -> None:
    files, path = filesystem("memory://shards/0.tar")
    files.pipe_file(path, bytes(SIZE))
    download("memory://shards/0.tar", tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == SIZE
    assert read_small("memory://shards/missing") is None


def test_a_data_set_of_the_hub_is_listed_and_read(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    content = random.Random(2).randbytes(SIZE)
    for name in ("0.tar", "1.tar", "README.md"):
        (tmp_path / "hub" / name).write_bytes(content)
    code = (
        "import sys, pathlib; from bksdm.data import location, remote; remote.CHUNK = 2**18\n"
        "shards = location.expand('hf://datasets/owner/name/*.tar', allow_pipe=False)\n"
        "assert shards == [f'hf://datasets/owner/name/{n}.tar' for n in (0, 1)], shards\n"
        "assert remote.read_small('hf://datasets/owner/name/missing.json') is None\n"
        "remote.download(shards[1], pathlib.Path(sys.argv[1]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    with hub_server(tmp_path / "hub") as (url, asked):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "part")],
            env={**environment, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path)},
            check=True,
        )
    assert (tmp_path / "part").read_bytes() == content
    assert [line for line in asked if "1.tar" in line] == [
        "/datasets/owner/name/resolve/main/1.tar bytes=0-262143",
        "/datasets/owner/name/resolve/main/1.tar bytes=262144-524287",
        f"/datasets/owner/name/resolve/main/1.tar bytes=524288-{SIZE - 1}",
    ]


def test_https_checks_the_certificate(
    nginx: Nginx, served: Path, data: bytes, tmp_path: Path
) -> None:
    url = f"https://127.0.0.1:{nginx.tls_port}/{served.name}/0.tar"
    with pytest.raises(InputError, match="certificate"):
        download(url, tmp_path / "part")
    code = (
        "import sys, pathlib; from bksdm.data.remote import download;"
        "download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, url, str(tmp_path / "part")],
        env={**os.environ, "SSL_CERT_FILE": str(nginx.certificate)},
        check=True,
    )
    assert (tmp_path / "part").read_bytes() == data


def _download(environment: dict[str, str], url: str, target: Path) -> None:
    os.environ.update(environment)  # a fork server may be older than the fixture's settings
    download(url, target)


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_workers_of_a_parent_that_has_read_before(
    start: str, nginx: Nginx, served: Path, data: bytes, bucket: object, tmp_path: Path
) -> None:
    bucket.put_object(Bucket="shards", Key="b/0.tar", Body=data)  # type: ignore[attr-defined]
    for number, url in enumerate([f"{nginx.url}/{served.name}/0.tar", "s3://shards/b/0.tar"]):
        download(url, tmp_path / "parent")
        target = tmp_path / str(number)
        settings = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
        worker = get_context(start).Process(target=_download, args=(settings, url, target))
        worker.start()
        worker.join(20)
        assert worker.exitcode == 0
        assert target.read_bytes() == data
