"""`bksdm prepare`: settings, claims, what it prints, and how it ends when it is ended."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

Cli = Callable[..., int]
SHAPES = ("prepare", "out=data", "source.train_samples=20", "validation_samples=4")
FOLDER = ("prepare", "source=folder", "source.path=my pictures (1)", "workers=1")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten good pictures with captions and two bad ones, in a folder with an awkward name."""
    root = tmp_path / "my pictures (1)"
    root.mkdir()
    for number in range(10):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text(f"number {number}")
    (root / "broken.jpg").write_bytes(b"<html>")
    (root / "broken.txt").write_text("x")
    (root / "silent.jpg").write_bytes(b"x")
    return root


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_shapes_are_resumable_and_never_mix_settings(
    run_cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SHAPES, "samples_per_shard=8", "workers=2"]
    assert run_cli(*arguments) == 0
    first = tars(tmp_path / "data")
    assert list(first) == [f"train-0000{i}.tar" for i in range(3)] + ["validation-00000.tar"]
    (tmp_path / "data" / "train-00001.tar").unlink()
    assert run_cli(*arguments, "workers=1") == 0
    assert tars(tmp_path / "data") == first
    capsys.readouterr()
    assert run_cli(*arguments, "seed=7") == 2
    assert "seed was 100" in refused(capsys)


def test_a_folder_of_shapes_from_before_there_were_sources_goes_on(
    run_cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"source": "shapes", "folder": "data", "train_samples": 20, "validation_samples": 4}
    (tmp_path / "data").mkdir()
    manifest = tmp_path / "data" / "prepare.json"
    manifest.write_text(json.dumps(old | {"samples_per_shard": 2000, "seed": 100}))
    assert run_cli(*SHAPES) == 0
    manifest.write_text(json.dumps(old | {"samples_per_shard": 2000, "seed": 1}))
    capsys.readouterr()
    assert run_cli(*SHAPES) == 2
    assert "other settings (seed was 1)" in refused(capsys)


def test_a_full_disk_is_said(
    run_cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.tmp").symlink_to("/dev/full")
    assert run_cli(*SHAPES, "source.train_samples=2000") == 2
    assert "no space left" in refused(capsys)
    assert not list((tmp_path / "data").glob("train-00000.t*"))


def test_a_folder_of_pictures_becomes_shards(
    run_cli: Cli, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*FOLDER, "source.name=mine") == 0
    out = tmp_path / "data" / "mine"
    assert list(tars(out)) == ["train-00000.tar", "validation-00000.tar"]
    with (out / "rejected.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("broken.jpg", "not a picture", "none of JPEG, PNG, WEBP, BMP, TIFF, GIF"),
        ("silent.jpg", "no caption", "no silent.txt"),
    ]
    text = capsys.readouterr().out
    assert "11 samples in my pictures (1), captions: a .txt beside each" in text
    assert re.search(r"^left out +samples$", text, re.M)
    assert re.search(r"^no caption +1$", text, re.M)
    assert re.search(r"^all +2$", text, re.M)
    assert "validation: 1 samples in 1 shards" in text
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert run_cli(*FOLDER, "source.name=mine") == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_changed_pictures_are_refused_with_their_number(
    run_cli: Cli, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*FOLDER, "out=made") == 0
    (pictures / "silent.txt").write_text("not any more")
    (pictures / "3.png").unlink()
    (pictures / "4.png").unlink()
    capsys.readouterr()
    assert run_cli(*FOLDER, "out=made") == 2
    line = refused(capsys)
    assert "1 added, 2 removed" in line
    assert "out=" in line
    assert run_cli(*FOLDER, "out=other") == 0


def test_shards_of_somebody_else_are_left_alone(
    run_cli: Cli, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "laion").mkdir()
    (tmp_path / "laion" / "train-00000.tar").write_bytes(b"dear")
    assert run_cli(*FOLDER, "out=laion") == 2
    assert "not of bksdm prepare" in refused(capsys)
    assert tars(tmp_path / "laion") == {"train-00000.tar": b"dear"}


def test_coco_becomes_shards(run_cli: Cli, pictures: Path, tmp_path: Path) -> None:
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(10)],
        "annotations": [{"id": i, "image_id": i // 2, "caption": f"c {i}"} for i in range(20)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    arguments = ["source=coco", "source.annotations=captions.json", f"source.images={pictures}"]
    for captions, count in [("first", 10), ("each", 20)]:
        out = f"out=data/{captions}"
        assert run_cli("prepare", *arguments, f"source.captions={captions}", out) == 0
        stats = [json.loads(p.read_text()) for p in (tmp_path / out[4:]).glob("*_stats.json")]
        assert sum(values["successes"] for values in stats) == count


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["source=folder"], ["source.path= is missing"]),
        (["source=folder", "source.path=nowhere"], ["source.path=nowhere", "no such folder"]),
        (["source=folder", "source.path=empty"], ["source.path=empty", "no pictures"]),
        (["source=folder", "source.path=bad", "source.short_side=0"], ["short_side=0"]),
        (["source=folder", "source.path=bad"], ["no usable sample for train and", "rejected.csv"]),
        (["source=coco", "source.annotations=x.json"], ["source.images= is missing"]),
        (
            ["source=coco", "source.annotations=x", "source.images=bad"],
            ["annotations=x", "no such"],
        ),
        (
            ["source=coco", "source.captions=all", "source.images=bad", "source.annotations=x"],
            ["all"],
        ),
        (["workers=0"], ["workers=0"]),
        (["samples_per_shard=0"], ["samples_per_shard=0"]),
    ],
)
def test_bad_input_gets_one_line(
    run_cli: Cli,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    for name in "ab":
        (tmp_path / "bad" / f"{name}.png").write_bytes(b"")
        (tmp_path / "bad" / f"{name}.txt").write_text("x")
    assert run_cli("prepare", *arguments) == 2
    line = refused(capsys)
    assert all(word in line for word in words), line
    assert not list((tmp_path / "data").glob("*/*.tar"))


VERB = "import sys; from bksdm.cli.main import main; sys.exit(main())"
LIBRARY = """
from pathlib import Path
from bksdm.data.cutting import Cut, ShapesSource, drawn_shards
from bksdm.data.making import make_shards
if __name__ == "__main__":
    source = ShapesSource(name="shapes", train_samples=200_000)
    cut = Cut(samples_per_shard=100, validation_samples=1, seed=0)
    make_shards(drawn_shards(source, cut, folder=Path("data")), workers=2, report=str)
"""


@contextmanager
def endless(folder: Path, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A making of very many shapes, in a session of its own, once its first shard is there."""
    arguments = ["source.train_samples=200000", "samples_per_shard=100", "workers=2", "out=data"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "prepare", *arguments],
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob("data/*.tar")) and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def survivors(session: int) -> list[str]:
    """Processes of a session that are still there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(text[3]) == session and text[0] != "Z":
            found.append(folder.name)
    return found


@pytest.mark.parametrize(
    ("code", "end", "returned"),
    [
        pytest.param(VERB, lambda pid: os.killpg(pid, signal.SIGINT), 130, id="Ctrl-C"),
        pytest.param(VERB, lambda pid: os.kill(pid, signal.SIGTERM), 143, id="SIGTERM"),
        pytest.param(LIBRARY, lambda pid: os.kill(pid, signal.SIGKILL), -9, id="SIGKILL"),
    ],
)
def test_an_ended_run_leaves_whole_shards_and_no_process(
    tmp_path: Path, code: str, end: Callable[[int], None], returned: int
) -> None:
    with endless(tmp_path, code) as process:
        end(process.pid)
        error = process.communicate(timeout=120)[1]
        assert process.returncode == returned
        deadline = time.monotonic() + 10
        while survivors(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not survivors(process.pid)
    assert list(tmp_path.glob("data/*.tar"))
    if returned > 0:
        assert not list(tmp_path.glob("data/*.tmp"))
        assert error == b""
