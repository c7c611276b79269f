import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.hostile import bomb, good, png, write_tar

Cli = Callable[..., int]


@pytest.fixture
def check(sd1_folder: Path, tmp_path: Path) -> list[str]:
    """Arguments of a check of ./own/*.tar."""
    return [
        "check", f"teacher={sd1_folder}", "teacher.name=tiny", f"data.shards={tmp_path}/own/*.tar",
        "data=shards", "data.resolution=16", "workers=1", "only_shards=true",
    ]  # fmt: skip


def test_the_embedded_worlds_shards_are_fine(
    run_cli: Cli, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"data.shards={shards}/train-*.tar"]
    arguments += [f"data.validation_shards={shards}/validation-*.tar", "workers=2"]
    assert run_cli("check", *arguments, "rehearsal=1") == 0
    out = capsys.readouterr().out
    assert "training    pictures       3       48    0   0.000" in out
    assert "64 x 64 (48)" in out
    assert "global batch 32: processes x batch_size x accumulation = 1 x 32 x 1" in out
    assert "1 steps timed here" in out
    assert "no problems" in out
    assert run_cli("check", *arguments, "format=json", "only_shards=true") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["training"]["samples"] == 48
    assert told["validation"]["captions"]["limit"] == 20


def test_everything_bad_is_told(
    run_cli: Cli, check: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ("l.png", png((9, 9, 9), (8, 40))), ("l.txt", b"circle " * 50)
    again = ("again.png", good(1)[0][1]), ("again.txt", b"the same picture")
    write_tar(tmp_path / "own" / "a.tar", [*good(5), *long, *again])
    bad = [("x.png", bomb()), ("x.txt", b"x"), ("y.png", png()), ("z.png", b""), ("z.txt", b"z")]
    write_tar(
        tmp_path / "own" / "b.tar", [*bad, *good(2, first=4), ("e.png", png()), ("e.txt", b"")]
    )
    assert run_cli(*check) == 2
    captured = capsys.readouterr()
    rows = {" ".join(line.split()) for line in captured.out.splitlines()}
    assert "training pictures 2 13 3 23.077 0" in rows
    assert "training 9 52 52 1 20 1" in rows
    assert "training 1 2" in rows  # keys, pictures
    assert f"too many pixels training 1 {tmp_path}/own/b.tar x" in rows
    assert f"no caption training 1 {tmp_path}/own/b.tar y" in rows
    assert f"empty picture training 1 {tmp_path}/own/b.tar z" in rows
    assert "training 8 16 16 1 16 x 16 (9)" in rows
    assert "23.1 % of the training samples are bad" in captured.err
    assert run_cli(*check, "data.max_bad_fraction=0.3") == 0


def test_broken_shards_are_told_all_of_them(
    run_cli: Cli, check: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    for name in "abcde":
        write_tar(own / f"{name}.tar", good(3))
        (own / f"{name}_stats.json").write_text('{"successes": 3}')
    (own / "b_stats.json").unlink()
    (own / "c_stats.json").write_text('{"successes": 4}')
    (own / "d.tar").write_bytes((own / "d.tar").read_bytes()[:2000])
    (own / "e_stats.json").write_text('{"successes": 3, "sha256": "00"}')
    assert run_cli(*check) == 2
    captured = capsys.readouterr()
    for words in (
        "b.tar: unfinished: no _stats.json",
        "c.tar: it holds 3 samples, 4 by its _stats.json",
        "d.tar: cannot be read as a tar",
        "e.tar: its SHA-256 is not that of its _stats.json",
    ):
        assert words in captured.out, words
    assert "4 broken training shards, the first is" in captured.err


def test_latents_are_checked_too(
    run_cli: Cli, check: list[str], sd1_folder: Path, shards: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    encode = ["encode", f"teacher={sd1_folder}", "teacher.name=tiny", f"shards={shards}/*.tar"]
    assert run_cli(*encode, "out=own", "resolution=16", "workers=0", "flips=true") == 0
    capsys.readouterr()
    assert run_cli(*check) == 0
    assert "latents of 16 pixels, VAE" in capsys.readouterr().out
    path = tmp_path / "own" / "train-00001.tar"
    path.write_bytes(path.read_bytes().replace(b"NUMPY", b"NUMPX"))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "own" / "train-00001_stats.json").unlink()
    assert run_cli(*check) == 2
    out = capsys.readouterr().out
    assert "broken latents" in out
    assert "unfinished" in out
