import subprocess
import sys
from pathlib import Path

import pytest

from bksdm.data.location import base_name, expand, is_remote, local_path, sibling
from bksdm.errors import InputError


def touched(folder: Path, *names: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_braces_globs_lists_and_file_addresses_name_the_same_shards(tmp_path: Path) -> None:
    paths = touched(tmp_path, "00000.tar", "00001.tar", "00002.tar")
    assert expand(f"{tmp_path}/*.tar", allow_pipe=False) == paths
    assert expand(f"{tmp_path}/{{00000..00002}}.tar", allow_pipe=False) == paths
    assert expand(f"file://{tmp_path}/*.tar", allow_pipe=False) == paths
    assert expand(paths, allow_pipe=False) == paths


def test_shards_in_several_folders_keep_their_order(tmp_path: Path) -> None:
    b, a = touched(tmp_path / "b", "0.tar"), touched(tmp_path / "a", "0.tar", "1.tar")
    assert expand(f"{tmp_path}/{{b,a}}/*.tar", allow_pipe=False) == [*b, *a]


def test_a_file_whose_name_looks_like_a_pattern_is_found(tmp_path: Path) -> None:
    paths = touched(tmp_path, "laion[1].tar")
    assert expand(paths[0], allow_pipe=False) == paths


@pytest.mark.parametrize("pattern", ["/nowhere/{0..1}.tar", "/nowhere/*.tar", "/nowhere/0.tar"])
def test_what_is_missing_is_named(pattern: str) -> None:
    with pytest.raises(InputError, match=r"no shard at /nowhere/.*\.tar; .*name yours"):
        expand(pattern, allow_pipe=False)


def test_web_addresses_take_braces_but_no_globs() -> None:
    assert expand("https://h/{0..1}.tar?sig=a", allow_pipe=False) == [
        "https://h/0.tar?sig=a",
        "https://h/1.tar?sig=a",
    ]
    with pytest.raises(InputError, match=r"https://h/\*\.tar: a web server cannot be searched"):
        expand("https://name:secret@h/*.tar?sig=a", allow_pipe=False)


def test_a_pipe_needs_leave() -> None:
    with pytest.raises(InputError, match=r"runs a shell command.*cache\.allow_pipe=true"):
        expand("pipe:cat {0..1}.tar", allow_pipe=False)
    assert expand("pipe:cat {0..1}.tar", allow_pipe=True) == ["pipe:cat 0.tar", "pipe:cat 1.tar"]


def test_an_unknown_protocol_and_a_missing_package_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError, match="unknown protocol nope://"):
        expand("nope://a/0.tar", allow_pipe=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match="pip install 'gcsfs'"):
        expand("gs://a/0.tar", allow_pipe=False)


def test_s3_without_its_package_names_our_extra() -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from bksdm.data.location import expand; expand('s3://a/0.tar', allow_pipe=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "InputError: s3://a/0.tar: s3:// needs a package" in done.stderr
    assert "pip install 'bksdm[s3]'" in done.stderr


def test_a_glob_over_a_bucket_lists_it(bucket: object) -> None:
    for name in ("globbed/1.tar", "globbed/0.tar", "globbed/0_stats.json"):
        bucket.put_object(Bucket="shards", Key=name, Body=b"x")  # type: ignore[attr-defined]
    assert expand("s3://shards/globbed/*.tar", allow_pipe=False) == [
        "s3://shards/globbed/0.tar",
        "s3://shards/globbed/1.tar",
    ]
    with pytest.raises(InputError, match=r"no shard at s3://shards/globbed/\*\.zip"):
        expand("s3://shards/globbed/*.zip", allow_pipe=False)


def test_the_hub_offline_is_one_line() -> None:
    with pytest.raises(InputError, match="offline mode is enabled") as caught:
        expand("hf://datasets/owner/name/*.tar", allow_pipe=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "remote", "name", "beside"),
    [
        ("a/0.tar", False, "0.tar", "a/x.json"),
        ("0.tar", False, "0.tar", "x.json"),
        ("https://h/a/0.tar?sig=b/c", True, "0.tar", "https://h/a/x.json?sig=b/c"),
        ("s3://b/a/what?.tar", True, "what?.tar", "s3://b/a/x.json"),
        ("hf://datasets/o/n@v1/0.tar", True, "0.tar", "hf://datasets/o/n@v1/x.json"),
    ],
)
def test_names_made_from_a_location(location: str, *, remote: bool, name: str, beside: str) -> None:
    assert is_remote(location) is remote
    assert base_name(location) == name
    assert sibling(location, "x.json") == beside


def test_names_made_from_a_pipe() -> None:
    assert base_name("pipe:curl -s 'https://h/a.tar.gz/00000.tar?x=1' | cat") == "00000.tar"
    assert len(base_name("pipe:make shard")) == 12
    with pytest.raises(InputError, match="no folder"):
        sibling("pipe:cat 0.tar", "x.json")


def test_a_home_folder_is_resolved() -> None:
    assert local_path("~/0.tar") == Path.home() / "0.tar"
