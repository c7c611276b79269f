"""What a folder, a metadata file and a COCO file list, and what they list in vain."""

import json
from pathlib import Path

import pytest

from bksdm.data.listing import (
    CocoSource,
    FolderSource,
    Listed,
    Listing,
    files_below,
    held_back,
    shuffled,
)
from bksdm.data.record import Rejected
from bksdm.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def folder(root: Path, **changes: object) -> Listing:
    return FolderSource(name="folder", path=str(root), **changes).listing()  # type: ignore[arg-type]


def reasons(listing: Listing) -> dict[str, str]:
    return {bad.file: bad.reason for bad in listing.rejected}


def test_pictures_of_any_depth_and_case_have_their_caption_beside_them(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.JPG", "b.txt", "a/deep/c.webp", "a/deep/c.TXT", "d.tiff", "notes.md", "e.txt"
    )
    touch(tmp_path, ".hidden.jpg", ".git/x.png", "._b.jpg", "f.g.png", "f.g.txt", "f.txt")
    listing = folder(tmp_path)
    assert [(s.file, s.caption_file, s.caption) for s in listing.samples] == [
        ("a/deep/c.webp", "a/deep/c.TXT", None),
        ("b.JPG", "b.txt", None),
        ("f.g.png", "f.g.txt", None),
    ]
    assert listing.rejected == (Rejected("d.tiff", "no caption", "no d.txt"),)


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert list(files_below(tmp_path)) == ["a/b.jpg"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_in_the_folder_is_found_and_its_bad_rows_are_named(
    tmp_path: Path, kind: str
) -> None:
    touch(tmp_path, "a.png", "sub/b.png", "c.png", "d.png", "e.png")
    rows = [
        ("sub/b.png", 'a "quoted", comma\nand line'),
        ("./a.png", " \u00e9t\u00e9 "),
        ("gone.png", "x"),
        ("../../etc/passwd.png", "x"),
        ("/etc/x.png", "x"),
        ("c.png", "  "),
        ("", "x"),
    ]
    if kind == "csv":
        quoted = [
            f'{name},1,"{caption.replace(chr(34), chr(34) * 2)}"\n'.encode()
            for name, caption in rows
        ]
        data = b"\xef\xbb\xbffile_name,more,text\n" + b"".join(quoted) + b"d.png,1,caf\xe9\n"
    else:
        lines = [json.dumps({"file_name": name, "text": caption}) for name, caption in rows]
        data = "\n".join(lines).encode() + b'\n\n{"file_name": "d.png", "text": "caf\xe9"}\n'
        data += b'{"file_name": "e.png"}\n'
    (tmp_path / f"metadata.{kind}").write_bytes(data)
    listing = folder(tmp_path)
    assert listing.samples == (
        Listed("a.png", caption="\u00e9t\u00e9"),
        Listed("sub/b.png", caption='a "quoted", comma\nand line'),
    )
    expected = {
        "gone.png": "missing file",
        "row 4": "unsafe name",
        "row 5": "unsafe name",
        "c.png": "empty caption",
        "row 7": "no file name",
        "d.png": "caption is not UTF-8",
    }
    assert reasons(listing) == expected | ({"e.png": "no caption"} if kind == "jsonl" else {})


def test_metadata_elsewhere_with_columns_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path / "pictures", "a.png")
    (tmp_path / "list.csv").write_text("image,caption\na.png,hello\n")
    listing = folder(
        tmp_path / "pictures",
        metadata=str(tmp_path / "list.csv"),
        file_column="image",
        caption_column="caption",
    )
    assert listing.samples == (Listed("a.png", caption="hello"),)


@pytest.mark.parametrize(
    ("files", "metadata", "words"),
    [
        ({}, None, "no pictures .jpg"),
        ({"a.jpg": b"x", "b.jpg": b"x"}, None, r"2 pictures and no captions.*\.txt.*metadata.csv"),
        (
            {"l.csv": b"file,text\na,b\n"},
            "l.csv",
            "no column 'file_name' .it has file, text.*file_c",
        ),
        ({"l.jsonl": b'{"file_name": "a"}'}, "l.jsonl", "no column 'text'.*caption_column"),
        ({"l.jsonl": b'{"file_name": '}, "l.jsonl", "broken after row 0"),
        ({"l.jsonl": b"[1]"}, "l.jsonl", "an object a line"),
        ({"l.csv": b""}, "l.csv", "lists no pictures"),
        ({"l.csv": b"file_name,text\na,b\nc,d\n"}, "l.csv", "none of the 2 pictures"),
        ({}, "l.csv", "l.csv: no such file"),
        ({"l.parquet": b""}, "l.parquet", "expected a .csv or .jsonl"),
    ],
)
def test_a_folder_that_lists_nothing_is_refused(
    tmp_path: Path, files: dict[str, bytes], metadata: str | None, words: str
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=words):
        folder(tmp_path, metadata=metadata and str(tmp_path / metadata))


def coco(tmp_path: Path, **changes: object) -> Listing:
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": name} for i, name in enumerate(["b.jpg", "a.jpg", "c.jpg"])
        ],
        "annotations": [
            {"id": 9, "image_id": 0, "caption": "late"},
            {"id": 3, "image_id": 0, "caption": "early\n"},
            {"id": 5, "image_id": 1, "caption": "other"},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    settings = {"annotations": str(tmp_path / "captions.json"), "images": str(tmp_path)} | changes
    return CocoSource(name="coco", **settings).listing()  # type: ignore[arg-type]


def test_coco_takes_the_first_caption_or_each(tmp_path: Path) -> None:
    first, each = coco(tmp_path), coco(tmp_path, captions="each")
    assert first.samples == (Listed("a.jpg", caption="other"), Listed("b.jpg", caption="early"))
    assert [s.caption for s in each.samples] == ["other", "early", "late"]
    assert first.rejected == each.rejected == (Rejected("c.jpg", "no caption"),)


def test_files_that_are_no_coco_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="first or each"):
        coco(tmp_path, captions="all")
    with pytest.raises(InputError, match="no such folder"):
        coco(tmp_path, images="nowhere")
    with pytest.raises(InputError, match="no such file"):
        coco(tmp_path, annotations="nothing.json")
    for number, text in enumerate(["{", "[]", '{"images": []}', '{"annotations": [{"id": 1}]}']):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with pytest.raises(InputError, match="no COCO captions file"):
            coco(tmp_path, annotations=str(path))


def test_the_order_depends_on_seed_and_samples_alone() -> None:
    samples = [Listed(f"{i:03d}.jpg", caption="x") for i in range(200)]
    mixed = shuffled(samples, seed=1)
    assert mixed == shuffled(reversed(samples), seed=1)
    assert sorted(mixed, key=lambda s: s.file) == samples
    assert mixed != samples
    assert mixed != shuffled(samples, seed=2)
    assert [s for s in mixed if s.file != "050.jpg"] == shuffled(
        [s for s in samples if s.file != "050.jpg"], seed=1
    )


def test_whole_pictures_are_held_back_at_most_a_twentieth() -> None:
    samples = [Listed(f"{i}.jpg", caption=str(j)) for i in range(100) for j in range(5)]
    assert len(held_back(samples, count=12, seed=0)) == 2
    assert len(held_back(samples, count=1000, seed=0)) == 5
    assert len(held_back(samples, count=1, seed=0)) == 1
    assert len(held_back(samples[:5], count=1, seed=0)) == 1
    assert held_back(samples, count=12, seed=0) != held_back(samples, count=12, seed=1)
