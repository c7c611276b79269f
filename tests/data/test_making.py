"""Pictures to what a shard holds; listings to shards, whoever writes them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bksdm.data.cutting import Cut, ShapesSource, drawn_shards, picture_shards
from bksdm.data.decode import BadSampleError, decode_picture
from bksdm.data.listing import FolderSource
from bksdm.data.making import PlannedShard, make_shards, write_shard_files
from bksdm.data.pictures import stored_picture
from bksdm.data.record import record_name
from bksdm.data.shapes import samples
from bksdm.data.shards import write_shard
from bksdm.errors import InputError

TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be shown turned by a quarter, clockwise


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 8, y * 12, x * 3 + y * 4], -1).astype(np.uint8))


def noise() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(decode_picture(data)).astype(int)


@pytest.mark.parametrize(
    ("kind", "options", "suffix"),
    [
        ("JPEG", {}, "jpg"),
        ("JPEG", {"progressive": True, "quality": 40}, "jpg"),
        ("PNG", {}, "png"),
        ("WEBP", {"quality": 50}, "webp"),
        ("WEBP", {"lossless": True}, "webp"),
        ("MPO", {"save_all": True, "append_images": [gradient()]}, "jpg"),
    ],
)
def test_what_needs_no_conversion_keeps_its_bytes(
    kind: str, options: dict[str, Any], suffix: str
) -> None:
    data = encoded(gradient(), kind, **options)
    stored = stored_picture(data, short_side=16)
    assert (stored.suffix, stored.data) == (suffix, data)
    assert (stored.width, stored.height) == (24, 16)


def converted_cases() -> list[Any]:
    rgb = gradient()
    grey = rgb.convert("L")
    clear = rgb.copy()
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 24).astype(np.uint8), (16, 1))))
    over_white = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), clear).convert("RGB")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 77)
    few = rgb.quantize(8)
    moving = {"save_all": True, "append_images": [Image.new("RGB", rgb.size)]}
    turned = rgb.transpose(Image.Transpose.ROTATE_270)
    lossless: list[tuple[str, Image.Image, str, dict[str, Any], Image.Image]] = [
        ("bmp", rgb, "BMP", {}, rgb),
        ("tiff", rgb, "TIFF", {"compression": "tiff_lzw"}, rgb),
        ("tiff turned", rgb, "TIFF", {"exif": TURNED}, turned),
        ("gif", few, "GIF", {}, few.convert("RGB")),
        ("gif that moves", few, "GIF", moving, few.convert("RGB")),
        ("png palette", few, "PNG", {}, few.convert("RGB")),
        ("png grey", grey, "PNG", {}, grey.convert("RGB")),
        ("png 16-bit", deep, "PNG", {}, grey.convert("RGB")),
        ("tiff 16-bit", deep, "TIFF", {}, grey.convert("RGB")),
        ("png transparent", clear, "PNG", {}, over_white),
        ("png turned", rgb, "PNG", {"exif": TURNED}, turned),
        ("webp transparent", clear, "WEBP", {"lossless": True, "exact": True}, over_white),
        ("webp that moves", rgb, "WEBP", {"lossless": True, **moving}, rgb),
    ]
    lossy = [
        ("jpeg turned", rgb, "JPEG", {"quality": 95, "subsampling": 0, "exif": TURNED}, turned),
        ("jpeg grey", grey, "JPEG", {"quality": 95}, grey.convert("RGB")),
        ("jpeg cmyk", rgb.convert("CMYK"), "JPEG", {"quality": 95}, rgb),
    ]
    return [
        pytest.param(image, kind, options, wanted, suffix, id=name)
        for suffix, cases in [("png", lossless), ("jpg", lossy)]
        for name, image, kind, options, wanted in cases
    ]


@pytest.mark.parametrize(("image", "kind", "options", "wanted", "suffix"), converted_cases())
def test_everything_else_is_converted(
    image: Image.Image, kind: str, options: dict[str, Any], wanted: Image.Image, suffix: str
) -> None:
    stored = stored_picture(encoded(image, kind, **options))
    difference = np.abs(pixels(stored.data) - np.asarray(wanted).astype(int))
    exact = suffix == "png" and kind != "WEBP"
    assert stored.suffix == suffix or kind == "WEBP"
    assert (stored.width, stored.height) == wanted.size
    assert difference.max() <= (0 if exact else 12)


def test_only_larger_pictures_are_reduced() -> None:
    data = encoded(Image.new("RGB", (60, 31), (200, 30, 60)), "PNG")
    stored = stored_picture(data, short_side=10)
    assert (stored.suffix, stored.width, stored.height) == ("png", 19, 10)
    assert np.abs(pixels(stored.data) - (200, 30, 60)).max() == 0
    assert stored_picture(data, short_side=32).data == data
    photo = encoded(gradient(64, 48), "JPEG")
    assert stored_picture(photo, short_side=24).suffix == "jpg"
    tall = stored_picture(encoded(Image.new("RGB", (1, 500)), "PNG"), short_side=1)
    assert (tall.width, tall.height) == (1, 500)


def test_a_converted_picture_has_no_profile_of_another_colour_space() -> None:
    data = encoded(gradient().convert("CMYK"), "JPEG", icc_profile=b"cmyk profile")
    assert "icc_profile" not in Image.open(io.BytesIO(stored_picture(data).data)).info


def huge() -> bytes:
    """A header that promises 30,000 x 30,000 pixels."""
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = (30_000).to_bytes(4, "little") * 2
    return bytes(data)


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty picture"),
    "text": (b"<html>not found</html>", "not a picture"),
    "cut": (encoded(noise(), "JPEG")[:-200], "broken picture"),
    "cut png": (encoded(noise(), "PNG")[:-200], "broken picture"),
    "huge": (huge(), "too many pixels"),
    "eps": (encoded(gradient(), "EPS"), "not a picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_by_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(BadSampleError) as caught:
        stored_picture(data)
    assert caught.value.reason == reason
    assert "0x" not in caught.value.detail


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Thirty good samples and one of each bad kind."""
    root = tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    for number in range(30):
        name = f"{'more/' if number % 3 else ''}{number:02d}"
        kind = ("jpg", "png", "bmp")[number % 3]
        image = Image.new("RGB", (20 + number, 24), (number * 8, 0, 99))
        (root / f"{name}.{kind}").write_bytes(
            encoded(image, {"jpg": "JPEG"}.get(kind, kind.upper()))
        )
        (root / f"{name}.txt").write_text(f"picture number {number}\n")
    for name, (data, _) in BAD.items():
        (root / f"bad {name}.jpg").write_bytes(data)
        (root / f"bad {name}.txt").write_text("x")
    for name, caption in [("blank", b" \n"), ("latin", b"caf\xe9")]:
        (root / f"bad {name}.png").write_bytes(encoded(gradient(), "PNG"))
        (root / f"bad {name}.txt").write_bytes(caption)
    return root


def shards_of(
    pictures: Path, folder: Path, *, per_shard: int = 8, short_side: int | None = None
) -> list[PlannedShard]:
    listing = FolderSource(name="folder", path=str(pictures)).listing()
    cut = Cut(samples_per_shard=per_shard, validation_samples=4, seed=3)
    return picture_shards(listing, cut, folder=folder, short_side=short_side)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def silent(count: int) -> None:
    del count


def test_one_process_and_three_write_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    ticks: dict[int, list[int]] = {1: [], 3: []}
    for workers, heard in ticks.items():
        stats = make_shards(
            shards_of(pictures, tmp_path / str(workers)), workers=workers, report=heard.append
        )
        assert [s.count + len(s.rejected) for s in stats] == [8, 8, 8, 8, 5, 1]
    one, three = files(tmp_path / "1"), files(tmp_path / "3")
    assert one == three
    assert len(one) == 12
    assert sum(ticks[1]) == sum(ticks[3]) == 38


def test_a_shard_holds_picture_caption_and_facts(pictures: Path, tmp_path: Path) -> None:
    shards = shards_of(pictures, tmp_path / "out")
    stats = make_shards(shards, workers=1, report=silent)
    found = {}
    for shard in shards:
        with tarfile.open(shard.path) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        for name in [name for name in members if name.endswith(".json")]:
            key = name.removesuffix(".json")
            facts = json.loads(members[name])
            suffix = "jpg" if f"{key}.jpg" in members else "png"
            found[facts["file"]] = (members[f"{key}.{suffix}"], members[f"{key}.txt"], facts)
            assert key.startswith(shard.split)
    assert len(found) == 30
    data, caption, facts = found["more/04.png"]
    assert data == (pictures / "more" / "04.png").read_bytes()
    assert caption == b"picture number 4"
    assert facts == {"file": "more/04.png", "width": 24, "height": 24}
    assert pixels(found["more/05.bmp"][0])[0, 0].tolist() == [40, 0, 99]
    rejected = {bad.file: bad.reason for s in stats for bad in s.rejected}
    assert rejected == {f"bad {name}.jpg": reason for name, (_, reason) in BAD.items()} | {
        "bad blank.png": "empty caption",
        "bad latin.png": "caption is not UTF-8",
    }


def test_stats_are_as_img2dataset_writes_them(pictures: Path, tmp_path: Path) -> None:
    shards = shards_of(pictures, tmp_path, per_shard=100)
    stats = make_shards(shards, workers=1, report=silent)
    values = json.loads((tmp_path / "train-00000_stats.json").read_text())
    rejected = len(stats[0].rejected)
    assert (values["count"], values["successes"]) == (37, 37 - rejected)
    assert values["failed_to_download"] == 0
    assert values["status_dict"]["success"] == 37 - rejected
    assert values["status_dict"]["broken picture"] == 2


def test_only_missing_shards_are_made_again(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shards = shards_of(pictures, out)
    first = make_shards(shards, workers=2, report=silent)
    before = files(out)
    shards[1].path.unlink()
    shards[2].path.with_name(record_name(shards[2].path.name)).write_text("{")
    times = {shard.path.name: shard.path.stat().st_mtime_ns for shard in shards if shard.record}
    ticks: list[int] = []
    assert make_shards(shards, workers=1, report=ticks.append) == first
    assert sum(ticks) == 16
    assert files(out) == before
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items())
    assert make_shards(shards, workers=2, report=silent) == first


def test_a_shard_without_a_good_sample_has_stats_alone(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_text("x")
    shards = shards_of(tmp_path, tmp_path / "out")
    first = make_shards(shards, workers=1, report=silent)
    assert sorted(files(tmp_path / "out")) == [
        "train-00000_stats.json",
        "validation-00000_stats.json",
    ]
    ticks: list[int] = []
    assert make_shards(shards, workers=1, report=ticks.append) == first
    assert ticks == []


def test_validation_shares_no_picture_with_training(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "file_name,text\n" + "".join(f"{i // 5}.png,{i}\n" for i in range(100))
    )
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    source = FolderSource(name="x", path=str(tmp_path), metadata=str(tmp_path / "list.csv"))
    cut = Cut(samples_per_shard=1000, validation_samples=5, seed=0)
    shards = picture_shards(source.listing(), cut, folder=tmp_path, short_side=None)
    names = [{sample.file for sample in shard.contents.listed} for shard in shards]  # type: ignore[attr-defined]
    assert [len(part) for part in names] == [19, 1]
    assert not names[0] & names[1]


def test_one_picture_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="at least two"):
        shards_of(tmp_path, tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_space_for_one_shard_leaves_the_others(
    pictures: Path, tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "out"
    shards = shards_of(pictures, out)
    make_shards(shards[:1], workers=1, report=silent)
    shards[1].temporary.symlink_to("/dev/full")  # every write to it finds no space
    with pytest.raises(OSError, match="No space left"):
        make_shards(shards, workers=workers, report=silent)
    assert shards[0].path.exists()
    assert not shards[1].path.exists()
    assert not list(out.glob("*.tmp"))
    assert len(make_shards(shards, workers=workers, report=silent)) == 6


def test_an_interrupted_shard_leaves_nothing(pictures: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    shard = shards_of(pictures, tmp_path)[0]
    with pytest.raises(KeyboardInterrupt):
        write_shard_files(shard, tick=interrupt)
    assert not list(tmp_path.glob("train*"))


def test_an_interrupt_ends_the_workers(pictures: Path, tmp_path: Path) -> None:
    def interrupt(count: int) -> None:
        del count
        raise KeyboardInterrupt

    shards = shards_of(pictures, tmp_path / "out", per_shard=1)
    with pytest.raises(KeyboardInterrupt):
        make_shards(shards, workers=2, report=interrupt)
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert len(make_shards(shards, workers=2, report=silent)) == 38


def test_drawn_shards_are_those_of_one_stream(tmp_path: Path) -> None:
    source = ShapesSource(name="shapes", train_samples=5)
    cut = Cut(samples_per_shard=3, validation_samples=2, seed=7)
    shards = drawn_shards(source, cut, folder=tmp_path / "made")
    make_shards(shards, workers=2, report=silent)

    def rows(count: int, seed: int) -> list[Any]:
        stream = enumerate(samples(count, seed=seed))
        return [(i, image, scene.caption) for i, (scene, image) in stream]

    for split, count, seed in [("train", 5, 7), ("validation", 2, 8)]:
        for number, start in enumerate(range(0, count, 3)):
            path = tmp_path / f"{split}-{number:05d}.tar"
            part = rows(count, seed)[start : start + 3]
            write_shard(path, [(f"{split}{i:08d}", *rest) for i, *rest in part])
            assert path.read_bytes() == (tmp_path / "made" / path.name).read_bytes()
