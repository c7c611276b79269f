import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from bksdm.data.contents import META, PARTS, Contents, scan
from bksdm.data.sidecar import SIDECAR, read_contents
from bksdm.errors import InputError
from tests.data.hostile import good, png, write_tar


def scanned(path: Path) -> Contents:
    with path.open("rb") as file:
        return scan(file)


def contents_of(path: Path, spare: Path | None = None) -> Contents:
    with path.open("rb") as file:
        return read_contents(file, spare=spare)


def test_spans_point_at_the_members(shards: Path) -> None:
    contents = scanned(shards / "train-00001.tar")
    data = (shards / "train-00001.tar").read_bytes()
    assert len(contents) == 16
    with tarfile.open(shards / "train-00001.tar") as tar:
        for row, key in enumerate(contents.keys):
            for part, suffix in (("caption", "txt"), ("image", "png")):
                span = contents.span(row, part)
                member = tar.extractfile(f"{key}.{suffix}")
                assert span is not None
                assert member is not None
                assert data[span[0] : sum(span)] == member.read()


def test_parts_may_lie_apart_and_suffixes_in_capitals(tmp_path: Path) -> None:
    members = [("a.JPG", b"1"), ("b.png", b"22"), ("b.txt", b"333"), ("a.txt", b"4444")]
    contents = scanned(write_tar(tmp_path / "a.tar", members))
    assert contents.keys == ("a", "b")
    assert contents.spans[:, :2, 1].tolist() == [[1, 4], [2, 3]]
    assert not contents.faults


def test_the_first_picture_suffix_counts(tmp_path: Path) -> None:
    members = [("a.webp", b"1"), ("a.png", b"22"), ("a.jpg", b"333"), ("a.txt", b"x")]
    contents = scanned(write_tar(tmp_path / "a.tar", members))
    assert contents.span(0, "image") == (contents.spans[0, 0, 0], 2)
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("members", "keys", "faults"),
    [
        ([("a.txt", b"x")], ("a",), {0: "no picture"}),
        ([("a.png", b"x")], ("a",), {0: "no caption"}),
        ([("a.png", b""), ("a.txt", b"x")], ("a",), {0: "empty picture"}),
        ([*good(1), *good(1)], ("0000", "0000"), {1: "duplicate key"}),
        ([("../../x.png", b"x"), ("../../x.txt", b"x")], ("../../x",), {0: "unsafe name"}),
        ([("/etc/x.png", b"x"), ("/etc/x.txt", b"x")], ("/etc/x",), {0: "unsafe name"}),
        ([("a.pkl", b"x"), ("a.pth", b"x"), ("a.pyd", b"x")], ("a",), {0: "no picture"}),
        ([*good(1), ("0000.pkl", b"x")], ("0000",), {}),
        ([], (), {}),
    ],
    ids=[
        "no picture", "no caption", "empty", "duplicate", "parent", "absolute", "pickles alone",
        "pickle beside", "empty shard",
    ],
)  # fmt: skip
def test_faults_that_the_names_tell(
    tmp_path: Path, members: list[tuple[str, bytes]], keys: tuple[str, ...], faults: dict[int, str]
) -> None:
    contents = scanned(write_tar(tmp_path / "a.tar", members))
    assert contents.keys == keys
    assert contents.faults == faults


def test_pickles_are_no_parts() -> None:
    suffixes = {suffix for part in PARTS.values() for suffix in part}
    assert not suffixes & {"pyd", "pkl", "pickle", "pth", "pt", "npz"}


def test_links_are_no_samples(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", good(1))
    with tarfile.open(path, "a") as tar:
        entry = tarfile.TarInfo("link.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    assert scanned(path).keys == ("0000",)


def test_members_of_webdatasets_meta_form_are_no_samples(tmp_path: Path) -> None:
    members = [(META, b'{"resolution": 64}'), ("__other__/x.json", b"{}")]
    contents = scanned(write_tar(tmp_path / "a.tar", members))
    assert contents.meta == {"resolution": 64}
    assert not contents.keys


@pytest.mark.parametrize("keep", [0, 100, 512 * 3 + 10, 5000])
def test_a_truncated_tar_is_named(tmp_path: Path, keep: int) -> None:
    path = write_tar(tmp_path / "cut.tar", [("a.png", png() + bytes(4000)), ("a.txt", b"x")])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cut\.tar"):
        scanned(path)


def test_something_else_is_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "page.tar"
    path.write_text("<html>404</html>" * 100)
    with pytest.raises(InputError, match=r"page\.tar.*make it again"):
        scanned(path)


def test_the_sidecar_saves_the_scan_and_follows_the_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*good(3), ("x\udcff.png", b"1")])
    first = contents_of(path)
    sidecar = tmp_path / ("a.tar" + SIDECAR)
    stamp = sidecar.stat().st_mtime_ns
    again = contents_of(path)
    assert sidecar.stat().st_mtime_ns == stamp
    assert (again.keys, again.faults, again.digest) == (first.keys, first.faults, first.digest)
    assert np.array_equal(again.spans, first.spans)
    write_tar(path, good(2))
    assert len(contents_of(path)) == 2
    sidecar.write_bytes(b"broken")
    assert len(contents_of(path)) == 2


def test_a_folder_that_cannot_be_written_uses_the_spare_one(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "data" / "a.tar", good(3))
    (tmp_path / "data" / ("a.tar" + SIDECAR)).mkdir()  # root may write into read-only folders
    assert len(contents_of(path, spare=tmp_path / "spare")) == 3
    assert [found.name.endswith("a.tar" + SIDECAR) for found in (tmp_path / "spare").iterdir()]


def test_the_digest_follows_names_and_places(tmp_path: Path) -> None:
    one, same = (scanned(write_tar(tmp_path / name, good(3))) for name in ("a.tar", "b.tar"))
    other = scanned(write_tar(tmp_path / "c.tar", good(3, first=1)))
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize("meta", [b"[1]", b'"x"', b"{", b"[" * 100_000], ids=str)
def test_strange_notes_of_latents_make_no_shard(tmp_path: Path, meta: bytes) -> None:
    with pytest.raises(InputError, match=r"a\.tar cannot be read as a tar"):
        scanned(write_tar(tmp_path / "a.tar", [(META, meta), *good(1)]))


def test_a_negative_size_makes_no_shard(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", good(1))
    data = bytearray(path.read_bytes())
    data[124:136] = b"\xff" * 12  # the size field, base 256
    total = sum(data[:148]) + 8 * 32 + sum(data[156:512])
    data[148:156] = b"%06o\0 " % total
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tar"):
        scanned(path)


def test_a_sample_whose_key_is_empty_comes_back_from_the_sidecar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(".png", png()), (".txt", b"x")])
    assert contents_of(path).keys == contents_of(path).keys == ("",)


@pytest.mark.parametrize("extra", [[1], {"keys": ["0000"], "faults": [], "meta": {}}])
def test_a_sidecar_that_lies_is_made_again(tmp_path: Path, extra: object) -> None:
    path = write_tar(tmp_path / "a.tar", good(1))
    whole = contents_of(path)
    with np.load(tmp_path / ("a.tar" + SIDECAR)) as old:
        parts = {name: old[name] for name in old}
    parts["extra"] = np.frombuffer(json.dumps(extra).encode(), dtype=np.uint8)
    parts["spans"] = parts["spans"] + 2**40
    with (tmp_path / ("a.tar" + SIDECAR)).open("wb") as file:
        np.savez(file, **parts)
    assert np.array_equal(contents_of(path).spans, whole.spans)
