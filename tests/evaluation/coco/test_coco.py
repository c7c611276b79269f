"""COCO's captions and photographs as reference sets, on a made-up copy."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bksdm.errors import InputError
from bksdm.evaluation.coco import reference_pass
from bksdm.evaluation.coco.choice import FirstListed, LowestId, Published
from bksdm.evaluation.coco.official import PARTS, Captions, read_captions
from bksdm.evaluation.coco.photographs import Kept, kept, kept_batches, photographs
from bksdm.evaluation.coco.reference import check_zip, choose, read_copy
from bksdm.evaluation.coco.reference_pass import write_all
from bksdm.evaluation.keeping import Keeping, read_picture
from bksdm.evaluation.measures.frechet import Frechet
from bksdm.evaluation.measures.kernel import Kernel
from bksdm.evaluation.measures.on_features import OnFeatures
from bksdm.evaluation.reference import read_reference
from tests.evaluation.coco.tiny_coco import (
    HOSTILE,
    Deadly,
    MeanColor,
    annotations,
    file_name,
    make_coco,
)

BKSDM = Keeping(jpeg_quality=75, size=16, jpeg_first=True)
CLEAN = Keeping(size=16, crop=True, resample="lanczos")


def captions(images: int = 20) -> Captions:
    return read_captions(json.dumps(annotations(images)).encode(), origin="a.json")


def test_official_counts_agree_with_each_other() -> None:
    # 2017 is 2014 in other parts: 82,783 pictures and 414,113 captions are train2014's.
    old, new = PARTS["val2014"], (PARTS["train2017"], PARTS["val2017"])
    assert 82_783 + old.images == sum(part.images for part in new)
    assert 414_113 + old.captions == sum(part.captions for part in new)


def test_the_lowest_id_is_not_the_first_listed() -> None:
    found = captions(3)
    assert [(each.image, each.id) for each in found.lowest_id] == [(7, 990), (14, 980), (21, 970)]
    assert [(each.image, each.id) for each in found.first_listed] == [
        (7, 995),
        (14, 985),
        (21, 975),
    ]


def test_hostile_captions_stay_whole_on_one_line() -> None:
    texts = {each.text.rsplit(" ", 2)[0] for each in captions().captions}
    assert texts == {" ".join(text.split()) for text in HOSTILE}


def test_draws_are_what_they_were() -> None:
    ids = [int(each.id[-3:]) // 7 for each in LowestId(seed=0).choose(captions(), 6)]
    assert ids == [5, 20, 7, 3, 14, 17]
    ids = [int(each.id[-3:]) // 7 for each in FirstListed(seed=0).choose(captions(), 6)]
    assert ids == [19, 2, 20, 9, 11, 18]


def test_the_pruning_papers_draw_is_its_codes() -> None:
    state = np.random.get_state()
    np.random.seed(0)
    drawn = np.random.choice(20, 8, replace=False)
    np.random.set_state(state)
    # Its list of captions: the first listed of each picture, as they come in the file.
    listed = [row for row in annotations(20)["annotations"] if str(row["caption"]).endswith("5")]
    expected = [file_name(int(str(listed[i]["image_id"]))) for i in drawn]
    assert [each.file for each in FirstListed(seed=0).choose(captions(), 8)] == expected


@pytest.mark.parametrize("choice", [LowestId(seed=0), FirstListed(seed=3)])
def test_a_draw_has_each_picture_once(choice: LowestId | FirstListed) -> None:
    found = choice.choose(captions(), 20)
    assert len({each.id for each in found}) == len(found) == 20
    assert choice.choose(captions(), 30) == found
    assert type(choice)(seed=choice.seed + 1).choose(captions(), 20) != found


def test_a_draw_depends_neither_on_the_files_order_nor_on_white_space() -> None:
    values = annotations(20)
    values["images"].reverse()
    values["annotations"].reverse()
    other = read_captions(json.dumps(values, indent=2).encode(), origin="a.json")
    assert LowestId(seed=0).choose(other, 20) == LowestId(seed=0).choose(captions(), 20)


def published(folder: Path, rows: Sequence[tuple[str, str]]) -> Published:
    path = folder / "metadata.csv"
    path.write_text("file_name,text\n" + "".join(f'{file},"{text}"\n' for file, text in rows))
    return Published(path)


def test_a_published_list_is_taken_in_its_order(tmp_path: Path) -> None:
    texts = {captions().files[each.image]: each.text for each in captions().first_listed}
    rows = [(file_name(7 * i), texts[file_name(7 * i)].replace('"', '""')) for i in (9, 2, 11)]
    found = published(tmp_path, rows).choose(captions(), 3)
    assert [each.file for each in found] == [file for file, _ in rows]
    assert [each.text for each in found] == [texts[file] for file, _ in rows]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([(file_name(7), "x"), ("COCO_val2014_1.jpg", "x")], "which source.annotations does not"),
        ([(file_name(7), "x"), (file_name(7), "x")], "twice"),
        ([(file_name(7), "x"), (file_name(14), " ")], "without a text"),
        ([(file_name(7), "x")], "holds 1 prompts; expected 2"),
        ([(file_name(7), "a dog"), (file_name(14), "a cat")], "2 of 2 texts are no caption"),
    ],
)
def test_a_published_list_of_something_else_is_refused(
    tmp_path: Path, rows: list[tuple[str, str]], told: str
) -> None:
    with pytest.raises(InputError) as error:
        published(tmp_path, rows).choose(captions(), 2)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('{"images": []}', "KeyError: 'annotations'"),
        ("[", "JSONDecodeError"),
        ('{"images": [{"id": 1, "file_name": "../a.jpg"}], "annotations": []}', "unsafe name"),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}],'
            ' "annotations": []}',
            "listed twice",
        ),
        (
            '{"images": [], "annotations": [{"image_id": 1, "id": 3, "caption": "a"}]}',
            "annotation 3 is of picture 1",
        ),
    ],
)
def test_annotations_that_are_none_are_refused(change: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_captions(change.encode(), origin="a.json")


def test_empty_captions_are_counted_and_not_taken() -> None:
    values = annotations(2)
    values["annotations"][0]["caption"] = " \n"
    found = read_captions(json.dumps(values).encode(), origin="a.json")
    assert (found.listed, len(found.captions)) == (4, 3)
    assert [each.text for each in found.every if not each.text] == [""]
    assert (found.first_listed[0].id, found.first_listed[0].text) == (995, "")


def test_a_picture_whose_first_caption_is_empty_keeps_its_place_in_the_draw() -> None:
    values = annotations(20)
    plain = FirstListed(seed=0).choose(captions(), 19)
    (left,) = {f"{name}" for name in captions().files.values()} - {each.file for each in plain}
    image = next(each["id"] for each in values["images"] if each["file_name"] == left)
    first = next(row for row in values["annotations"] if row["image_id"] == image)
    first["caption"] = " "
    found = read_captions(json.dumps(values).encode(), origin="a.json")
    assert FirstListed(seed=0).choose(found, 19) == plain
    with pytest.raises(InputError, match=f"seed=0 draws 1 .* annotation {first['id']} of {left}"):
        FirstListed(seed=0).choose(found, 20)


def test_a_copy_is_complete_or_refused(tmp_path: Path) -> None:
    coco = make_coco(tmp_path)
    copy = read_copy(coco.annotations, coco.images, coco.part, allow_partial=False)
    assert copy.sha256 == hashlib.sha256(coco.annotations.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="lists 10 pictures and 20 captions; val2014 has 40,504"):
        read_copy(coco.annotations, coco.images, PARTS["val2014"], allow_partial=False)
    (coco.images / file_name(21)).unlink()
    with pytest.raises(InputError, match=f"1 pictures are missing, the first is {file_name(21)}"):
        read_copy(coco.annotations, coco.images, coco.part, allow_partial=False)
    partial = read_copy(coco.annotations, coco.images, coco.part, allow_partial=True)
    assert len(partial.captions.files) == 9
    assert len(partial.captions.captions) == 18
    with pytest.raises(InputError, match=r"prompts.count=10: only 9 pictures"):
        choose(LowestId(seed=0), partial, 10, allow_partial=False)


def test_paths_that_are_no_copy_are_refused(tmp_path: Path) -> None:
    coco = make_coco(tmp_path, images=2)
    with pytest.raises(InputError, match=r"expected captions_val2014\.json"):
        read_copy(tmp_path / "none.json", coco.images, coco.part, allow_partial=True)
    with pytest.raises(InputError, match=r"source.images=.*expected the folder"):
        read_copy(coco.annotations, coco.annotations, coco.part, allow_partial=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no picture that"):
        read_copy(coco.annotations, tmp_path / "empty", coco.part, allow_partial=True)


def test_a_zip_is_as_good_as_its_folder(tmp_path: Path) -> None:
    coco = make_coco(tmp_path)
    inside, packed = photographs(coco.images, setting="a"), photographs(coco.zipped(), setting="a")
    assert inside.names() == packed.names()
    assert all(inside.read(name) == packed.read(name) for name in inside.names())


def test_a_zip_is_official_or_refused(tmp_path: Path) -> None:
    coco = make_coco(tmp_path)
    path = coco.zipped()
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=f"has MD5 {md5}, expected one of val2014.zip a3d79f5e"):
        check_zip(path, PARTS["val2014"], allow_other=False)
    assert check_zip(path, PARTS["val2014"], allow_other=True) == md5
    (tmp_path / "broken.zip").write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="no zip that can be read"):
        photographs(tmp_path / "broken.zip", setting="a").names()


def test_the_pass_keeps_photographs_as_the_protocol_says(tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    squashed = io.BytesIO()
    picture.resize((16, 16), Image.Resampling.BICUBIC).save(squashed, "JPEG")  # PIL's own quality
    assert torch.equal(kept(buffer.getvalue(), BKSDM, name="a"), read_picture(squashed.getvalue()))
    middle = picture.crop((5, 0, 35, 30)).resize((16, 16), Image.Resampling.LANCZOS)
    expected = torch.from_numpy(np.array(middle)).permute(2, 0, 1)
    assert torch.equal(kept(buffer.getvalue(), CLEAN, name="a"), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_photographs_come_in_order_whoever_reads_them(tmp_path: Path, workers: int) -> None:
    coco = make_coco(tmp_path)
    source = photographs(coco.zipped(), setting="a")
    names = sorted(source.names())
    found = list(kept_batches(source, names, BKSDM, batch_size=4, workers=workers))
    assert [len(batch.pixels) for batch in found] == [4, 4, 2]
    digests = [bytes(row).hex() for batch in found for row in batch.digests.numpy()]
    assert digests == [hashlib.sha256(source.read(name)).hexdigest() for name in names]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_photograph_is_named(tmp_path: Path, workers: int) -> None:
    coco = make_coco(tmp_path, images=3)
    broken = coco.images / file_name(14)
    broken.write_bytes(broken.read_bytes()[:300])
    source = photographs(coco.images, setting="a")
    with pytest.raises(InputError, match=f"{file_name(14)} is no picture") as error:
        list(kept_batches(source, sorted(source.names()), BKSDM, batch_size=4, workers=workers))
    assert "\n" not in str(error.value).strip()


def test_a_killed_loader_process_is_said() -> None:
    with pytest.raises(InputError, match=r"loader process was killed.*workers=1"):
        list(kept_batches(Deadly(), ["a.jpg"], BKSDM, batch_size=4, workers=1))


class Reading:
    """Photographs' batches that count what is read, and can fail as a killed process does."""

    def __init__(self, coco_images: Path, *, stop_at: int | None = None) -> None:
        self.source = photographs(coco_images, setting="a")
        self.names = sorted(self.source.names())
        self.read: list[str] = []
        self.stop_at = stop_at

    def __call__(self, names: Sequence[str]) -> Iterator[Kept]:
        for batch in kept_batches(self.source, names, BKSDM, batch_size=2, workers=0):
            self.read += names[len(self.read) : len(self.read) + 2]
            if self.stop_at is not None and len(self.read) > self.stop_at:
                raise SystemExit(143)
            yield batch


def measure(folder: Path, weights: str = "none") -> OnFeatures:
    file = str(folder / "mean.safetensors")
    return OnFeatures(
        network=MeanColor(weights), metrics=[Frechet(reference=file), Kernel(reference=file)]
    )


def write(folder: Path, reading: Reading, *measures: OnFeatures) -> list[str]:
    return write_all(
        measures,
        reading.names,
        reading,
        keeping=BKSDM,
        folder=folder,
        source="made up",
        device=torch.device("cpu"),
    )


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_pass, "PART", 4)


@pytest.mark.usefixtures("short_parts")
def test_a_reference_has_the_moments_of_its_photographs(tmp_path: Path) -> None:
    coco = make_coco(tmp_path)
    reading = Reading(coco.images)
    digests = write(tmp_path / "out", reading, measure(tmp_path / "out"))
    rows = []
    for name in reading.names:
        with Image.open(coco.images / name) as image:
            rows.append(
                np.asarray(Image.open(io.BytesIO(BKSDM.real(image))), float).mean(axis=(0, 1))
            )
    found = read_reference(tmp_path / "out" / "mean.safetensors")
    assert found.features.n == 10
    np.testing.assert_allclose(found.features.mean, np.mean(rows, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.features.covariance, np.cov(np.transpose(rows)), rtol=1e-5)
    assert found.features.rows is not None
    np.testing.assert_allclose(found.features.rows, rows, rtol=1e-6)
    assert found.about.source == "made up"
    sums = [hashlib.sha256((coco.images / name).read_bytes()).hexdigest() for name in reading.names]
    assert digests == sums
    assert not (tmp_path / "out" / "parts").exists()


@pytest.mark.usefixtures("short_parts")
def test_a_killed_pass_goes_on_where_it_was(tmp_path: Path) -> None:
    coco = make_coco(tmp_path)
    whole, out = tmp_path / "whole", tmp_path / "out"
    write(whole, Reading(coco.images), measure(whole))
    with pytest.raises(SystemExit):
        write(out, Reading(coco.images, stop_at=6), measure(out))
    assert not (out / "mean.safetensors").exists()
    assert not list(out.rglob("*.tmp"))
    again = Reading(coco.images)
    write(out, again, measure(out))
    assert again.read == again.names[4:]
    assert (out / "mean.safetensors").read_bytes() == (whole / "mean.safetensors").read_bytes()


@pytest.mark.usefixtures("short_parts")
def test_parts_of_another_network_are_made_again(tmp_path: Path) -> None:
    coco = make_coco(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        write(out, Reading(coco.images, stop_at=8), measure(out))
    other = Reading(coco.images)
    write(out, other, measure(out, weights="other"))
    assert other.read == other.names


@pytest.mark.usefixtures("short_parts")
def test_all_networks_share_one_pass(tmp_path: Path) -> None:
    coco = make_coco(tmp_path)
    reading = Reading(coco.images)
    first, second = tmp_path / "first", tmp_path / "second"
    write(tmp_path, reading, measure(first), measure(second, weights="other"))
    assert reading.read == reading.names
    one, two = (read_reference(path / "mean.safetensors") for path in (first, second))
    assert torch.equal(one.features.mean, two.features.mean)
    assert [each.about.network["weights"] for each in (one, two) if each.about.network] == [
        "none",
        "other",
    ]
