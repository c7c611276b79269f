import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds

from bksdm.data.decode import decode_latents, decode_picture
from bksdm.data.encode import encode
from bksdm.data.index import build_index
from bksdm.data.latents import check_format, latent_format
from bksdm.data.record import format_of, read_record
from bksdm.data.shards import ShardReader
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.data.todo import shards_to_do
from bksdm.data.transforms import pixel_tensor
from bksdm.errors import InputError
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.processes import Process
from tests.data.hostile import bomb, good, png, write_tar
from tests.training.metrics import assert_same_losses

Cli = Callable[..., int]


@pytest.fixture
def sd1(sd1_folder: Path) -> Teacher:
    return load_teacher(TeacherSource(name="tiny", path=str(sd1_folder)))


@pytest.fixture
def command(sd1_folder: Path, shards: Path) -> list[str]:
    """Arguments of an encoding of the test shards."""
    return [
        "encode", f"teacher={sd1_folder}", "teacher.name=tiny", f"shards={shards}/*.tar",
        "out=latents", "resolution=16", "batch_size=5", "workers=0",
    ]  # fmt: skip


def test_latents_are_what_the_vae_says(
    run_cli: Cli, command: list[str], sd1: Teacher, shards: Path, tmp_path: Path
) -> None:
    assert run_cli(*command, "flips=true", "text=true") == 0
    latents = ShardReader(build_index(f"{tmp_path}/latents/train-*.tar"))
    pictures = ShardReader(build_index(f"{shards}/train-*.tar"))
    assert latents.index.counts == (16, 16, 16)
    for row in (0, 7, 15):
        image = decode_picture(pictures.read(1, row, "image"))
        for part, flip in (("moments", False), ("flipped", True)):
            pixels = pixel_tensor(image, resolution=16, flip=flip)
            found = decode_latents(latents.read(1, row, part))
            assert found.dtype == np.float16
            wanted = sd1.encode_moments(pixels[None])[0].half()
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=2e-3, atol=1e-3)
        assert latents.read(1, row, "caption") == pictures.read(1, row, "caption").strip()
        assert decode_latents(latents.read(1, row, "text")).shape == (
            sd1.tokenizer.model_max_length,
            sd1.text_encoder.config.hidden_size,
        )


def test_a_shard_tells_what_it_was_made_from(
    run_cli: Cli, command: list[str], sd1: Teacher, tmp_path: Path
) -> None:
    assert run_cli(*command) == 0
    path = tmp_path / "latents" / "train-00000.tar"
    record = read_record(path)
    assert record is not None
    shape = latent_format(sd1, resolution=16, flips=False, text=False)
    with tarfile.open(path) as tar:
        file = tar.extractfile("__bksdm__/latents.json")
        assert file is not None
        meta = json.loads(file.read())
    assert meta == record.latents
    assert build_index(str(path)).format == format_of(asdict(shape))
    assert meta["source"].startswith("train-00000.tar ")
    samples = list(wds.WebDataset(str(path), shardshuffle=False))  # other tools do not see it
    assert len(samples) == 16
    assert {"moments.npy", "txt"} <= set(samples[0])


def test_a_run_from_latents_is_a_run_from_pixels(
    run_cli: Cli, command: list[str], tiny_run: list[str], shards: Path, tmp_path: Path
) -> None:
    assert run_cli(*command, "flips=true") == 0
    assert run_cli(*tiny_run, "name=pixels", "data.flip=true") == 0
    cached = [argument.replace(str(shards), str(tmp_path / "latents")) for argument in tiny_run]
    assert run_cli(*cached, "name=latents", "data.flip=true") == 0
    assert run_cli(*command, "flips=true", "text=true", "out=text") == 0
    states = [argument.replace(str(shards), str(tmp_path / "text")) for argument in tiny_run]
    assert run_cli(*states, "name=text", "data.flip=true", "data.caption_dropout=0") == 0
    pixels, latents, text = (tmp_path / "runs" / name for name in ("pixels", "latents", "text"))
    assert_same_losses(pixels, latents, rel=2e-3)
    assert_same_losses(pixels, text, rel=2e-3)


def test_dropped_captions_have_the_empty_ones_states(
    run_cli: Cli, command: list[str], tiny_run: list[str], shards: Path, tmp_path: Path
) -> None:
    assert run_cli(*command, "text=true") == 0
    for name, folder in (("pixels", shards), ("latents", tmp_path / "latents")):
        run = [argument.replace(str(shards), str(folder)) for argument in tiny_run]
        assert run_cli(*run, f"name={name}", "data.flip=false", "data.caption_dropout=0.5") == 0
    assert_same_losses(tmp_path / "runs" / "pixels", tmp_path / "runs" / "latents", rel=2e-3)


def test_processes_share_the_shards_and_nothing_is_done_twice(
    sd1: Teacher, shards: Path, tmp_path: Path
) -> None:
    index = build_index(f"{shards}/*.tar")
    shape = latent_format(sd1, resolution=16, flips=False, text=False)
    parts = [
        [number for number, _ in shards_to_do(index, tmp_path, shape, Process(rank=rank, world=3))]
        for rank in range(3)
    ]
    assert sorted(itertools.chain(*parts)) == [0, 1, 2, 3]


def test_the_same_command_again_does_nothing_and_a_changed_source_is_encoded_anew(
    run_cli: Cli, command: list[str], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = shutil.copytree(shards, tmp_path / "own")
    again = [argument.replace(str(shards), str(own)) for argument in command]
    assert run_cli(*again) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").glob("*.tar")}
    assert run_cli(*again) == 0
    assert "all shards were there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    write_tar(own / "train-00001.tar", good(3))
    assert run_cli(*again) == 0
    assert "1 shards encoded, 3 were there" in capsys.readouterr().out
    assert build_index(f"{tmp_path}/latents/train-*.tar").counts == (16, 3, 16)


def test_pictures_are_never_overwritten(
    run_cli: Cli, command: list[str], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = Path(shutil.copytree(shards, tmp_path / "own"))
    before = {path: path.read_bytes() for path in own.glob("*.tar")}
    here = [argument.replace(str(shards), str(own)) for argument in command]
    assert run_cli(*here, f"out={own}") == 2
    assert "holds the pictures themselves" in capsys.readouterr().err
    assert run_cli(*command, f"out={own}") == 2
    assert "is there, and not of bksdm encode" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in own.glob("*.tar")} == before


def test_other_captions_under_the_same_record_are_encoded_anew(
    run_cli: Cli, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write_tar(tmp_path / "own" / "a.tar", good(3))
    (tmp_path / "own" / "a_stats.json").write_text('{"successes": 3}')
    arguments = [*command, f"shards={tmp_path}/own/*.tar"]
    assert run_cli(*arguments) == 0
    os.utime(path, ns=(1, 1))  # touched, not changed
    assert run_cli(*arguments) == 0
    assert "all shards were there" in capsys.readouterr().out.splitlines()[-1]
    size = path.stat().st_size
    write_tar(path, [*good(2), ("0002.png", png()), ("0002.txt", b"another caption")])
    assert path.stat().st_size == size
    assert run_cli(*arguments) == 0
    assert "1 shards encoded" in capsys.readouterr().out.splitlines()[-1]


def test_latents_that_float16_cannot_hold_are_left_out(
    sd1: Teacher, shards: Path, tmp_path: Path
) -> None:
    with torch.no_grad():
        sd1.vae.quant_conv.bias[:] = 1e6
    index = build_index(f"{shards}/validation-*.tar")
    shape = latent_format(sd1, resolution=16, flips=False, text=False)
    left_out = encode(
        index, sd1, shape, shards_to_do(index, tmp_path, shape, Process()),
        store=ShardStore(CacheSettings()), batch_size=4, workers=0, device=torch.device("cpu"),
        on_images=lambda _: None,
    )  # fmt: skip
    assert left_out == {"latents overflow float16": 8}


@pytest.mark.parametrize(
    "change",
    ["resolution=-64", "resolution=abc", "out=null", "flips=maybe", "workers=-1", "batch_size=0"],
)
def test_bad_settings_get_one_line(
    run_cli: Cli, command: list[str], capsys: pytest.CaptureFixture[str], change: str
) -> None:
    assert run_cli(*command, change) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"bksdm encode: {change.partition('=')[0]}=")
    assert "expected" in line


@pytest.mark.parametrize(
    ("change", "field"),
    [("resolution=32", "resolution"), ("flips=true", "flips"), ("text=true", "text_hash")],
)
def test_latents_of_other_settings_are_not_mixed(
    run_cli: Cli, command: list[str], capsys: pytest.CaptureFixture[str], change: str, field: str
) -> None:
    assert run_cli(*command) == 0
    assert run_cli(*command, change) == 2
    assert f"latents of other settings: {field} is" in capsys.readouterr().err


def test_stale_latents_are_refused_by_field(sd1: Teacher) -> None:
    shape = latent_format(sd1, resolution=16, flips=False, text=True)
    found = format_of(asdict(shape))
    check_format(found, sd1, resolution=16, flip=False)
    with pytest.raises(InputError, match=r"resolution is 16 there .* 32 in this run"):
        check_format(found, sd1, resolution=32, flip=False)
    with pytest.raises(InputError, match="flips is False there"):
        check_format(found, sd1, resolution=16, flip=True)
    for field, value in (("crop", "random"), ("dtype", "bfloat16")):
        changed = json.dumps(json.loads(found) | {field: value})
        with pytest.raises(InputError, match=f"{field} is {value} there"):
            check_format(changed, sd1, resolution=16, flip=False)
    with torch.no_grad():
        next(sd1.text_encoder.parameters()).add_(1)
    with pytest.raises(InputError, match="text_hash is"):
        check_format(found, sd1, resolution=16, flip=False)
    with torch.no_grad():
        next(sd1.vae.parameters()).add_(1)
    with pytest.raises(InputError, match="vae_hash is"):
        check_format(found, sd1, resolution=16, flip=False)
    with pytest.raises(InputError, match="unknown format"):
        check_format('{"size": 3}', sd1, resolution=16, flip=False)


def test_a_run_refuses_stale_latents(
    run_cli: Cli, command: list[str], tiny_run: list[str], shards: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run_cli(*command) == 0
    cached = [argument.replace(str(shards), str(tmp_path / "latents")) for argument in tiny_run]
    assert run_cli(*cached, "data.flip=false", "data.resolution=32") == 2
    assert "latent shards do not fit: resolution is 16" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_bad_samples_are_left_out_and_counted(
    run_cli: Cli, command: list[str], shards: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bad = [("x.png", bomb()), ("x.txt", b"x"), ("y.png", b""), ("y.txt", b"y"), ("z.png", png())]
    write_tar(tmp_path / "own" / "a.tar", [*good(7), *bad])
    write_tar(tmp_path / "own" / "b.tar", bad)
    write_tar(tmp_path / "own" / "c.tar", [])
    assert run_cli(*command, f"shards={tmp_path}/own/*.tar") == 0
    out = capsys.readouterr().out
    for reason in ("2 too many pixels", "2 empty picture", "2 no caption"):
        assert reason in out
    index = build_index(f"{tmp_path}/latents/*.tar")
    assert index.counts == (7, 0, 0)
    record = read_record(tmp_path / "latents" / "a.tar")
    assert record is not None
    assert [(bad.file, bad.reason) for bad in record.rejected] == [
        ("x", "too many pixels"),
        ("y", "empty picture"),
        ("z", "no caption"),
    ]


def test_a_full_disk_leaves_nothing_half_done(
    run_cli: Cli, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert run_cli(*command) == 0
    (tmp_path / "latents" / "train-00002.tar").unlink()
    name = f"train-00002.tar.{os.uname().nodename}.{os.getpid()}.tmp"
    (tmp_path / "latents" / name).symlink_to("/dev/full")
    assert run_cli(*command) == 2
    assert "no space left" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "latents").glob("*.tar*")) == [
        "train-00000.tar", "train-00001.tar", "validation-00000.tar",
    ]  # fmt: skip
    assert run_cli(*command) == 0
    assert len(build_index(f"{tmp_path}/latents/*.tar").shards) == 4


def test_a_killed_encoding_goes_on_where_it_was_on_other_processes(
    run_cli: Cli, command: list[str], tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        shutil.copy(shards / "train-00000.tar", tmp_path / f"{number:02d}.tar")
    many = [*command, f"shards={tmp_path}/*.tar", "batch_size=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bksdm.cli.main", *many],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    out = tmp_path / "latents"
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.tar"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert 3 <= len(done) < 12
    for rank in ("0", "1"):
        for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, value)
        assert run_cli(*many) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert build_index(f"{out}/*.tar").counts == (16,) * 12
