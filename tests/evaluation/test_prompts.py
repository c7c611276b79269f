import json
from pathlib import Path

import pytest

from bksdm.checksum import sha256_of
from bksdm.errors import InputError
from bksdm.evaluation.coco.provenance import PROVENANCE, write_provenance
from bksdm.evaluation.prompt_files import prompts_text
from bksdm.evaluation.prompts import CocoPrompts, FilePrompts, Prompt, ShapesPrompts

ROWS = [("one", 'a "cat",\n on a mat'), ("two", "ein großer Hund"), ("three.x-1", "狗 🐕")]
READ = [
    Prompt("one", 'a "cat", on a mat', 5),
    Prompt("two", "ein großer Hund", 6),
    Prompt("three.x-1", "狗 🐕", 7),
]


def read(path: Path, content: str, count: int | None = None) -> list[Prompt]:
    path.write_text(content, encoding="utf-8", newline="")
    return FilePrompts(path=str(path), seed=5, count=count).read()


def test_prompts_are_the_same_from_csv_and_jsonl(tmp_path: Path) -> None:
    table = prompts_text([(name, text, f"{name}.jpg") for name, text in ROWS])
    lines = "\n".join(json.dumps({"text": text, "id": name}) for name, text in ROWS)
    assert read(tmp_path / "a.csv", table) == READ
    assert read(tmp_path / "a.jsonl", lines) == READ
    assert read(tmp_path / "bom.csv", "\ufeff" + table) == READ


def test_lines_of_a_text_file_are_prompts(tmp_path: Path) -> None:
    found = read(tmp_path / "a.txt", "a cat, a dog\r\n a  bird \n")
    assert found == [Prompt("000000", "a cat, a dog", 5), Prompt("000001", "a bird", 6)]


def test_a_prompts_seed_does_not_depend_on_how_many_follow(tmp_path: Path) -> None:
    assert (
        read(tmp_path / "a.txt", "a\nb\nc\n", count=2) == read(tmp_path / "a.txt", "a\nb\nc\n")[:2]
    )


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "a cat\n\na dog\n", "prompt 2 is empty"),
        ("a.txt", "", "holds no prompts"),
        ("a.csv", "id,text\n", "holds no prompts"),
        ("a.csv", "id,caption\n1,a cat\n", "row 1 has no 'text' (it has id, caption)"),
        ("a.csv", "id,text\n1,a cat\n2\n", "row 2 has no 'text'"),
        ("a.csv", "id,text\n1,a cat\n1,a dog\n", "2 prompts have the id '1'"),
        ("a.csv", "id,text\n../1,a cat\n", "prompt 1 has the id '../1'"),
        ("a.csv", "id,text\n.hidden,a cat\n", "prompt 1 has the id '.hidden'"),
        ("a.csv", "id,text\n1, \n", "prompt 1 is empty"),
        ("a.jsonl", '{"id": 1, "text": "a"}\n{"id": 2}\n', "row 2 has no 'text' (it has id)"),
        ("a.jsonl", '{"id": 1, "text": 7}\n', "prompt 1 is empty"),
        ("a.jsonl", "[1]\n", "expected an object a line"),
        ("a.jsonl", "{\n", "cannot be read as .jsonl"),
        ("a.json", "{}", "expected a .txt, .csv or .jsonl file"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, content: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path / name, content)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a caf\xe9\n")
    with pytest.raises(InputError, match=r"cannot be read as \.txt in UTF-8"):
        FilePrompts(path=str(tmp_path / "a.txt"), seed=0).read()


def test_too_few_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prompts.count=3: .* holds 2"):
        read(tmp_path / "a.txt", "a\nb\n", count=3)
    with pytest.raises(InputError, match="no such file"):
        FilePrompts(path=str(tmp_path / "none.txt"), seed=0).read()


def test_shapes_prompts_have_ids_of_their_own() -> None:
    found = ShapesPrompts(count=3, held_out=2, seed=1).read()
    assert len({prompt.id for prompt in found}) == 5


def coco_prompts(folder: Path, *, partial: bool = False, finished: bool = True) -> Path:
    path = folder / "coco30k_bksdm" / "prompts.csv"
    path.parent.mkdir()
    path.write_text(prompts_text([(name, text, f"{name}.jpg") for name, text in ROWS]))
    made = {"finished": finished, "partial": partial, "prompts": {"sha256": sha256_of(path)}}
    write_provenance(path.parent, made)
    return path


def test_coco_prompts_are_those_that_prepare_has_made(tmp_path: Path) -> None:
    path = coco_prompts(tmp_path)
    assert CocoPrompts(path=str(path), count=3, seed=5).read() == READ
    sha256 = sha256_of(path)
    assert CocoPrompts(path=str(path), count=3, seed=5, sha256=sha256).read() == READ


def test_coco_prompts_that_are_not_there_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not there.*prepare source=coco reference=coco5k"):
        CocoPrompts(path=str(tmp_path / "coco5k" / "prompts.csv"), count=3, seed=5).read()


def test_coco_prompts_of_another_count_or_content_are_refused(tmp_path: Path) -> None:
    path = coco_prompts(tmp_path)
    with pytest.raises(InputError, match="holds 3 prompts, expected 30,000"):
        CocoPrompts(path=str(path), count=30_000, seed=5).read()
    with pytest.raises(InputError, match=r"prompts.sha256 asks for 000000000000"):
        CocoPrompts(path=str(path), count=3, seed=5, sha256="0" * 64).read()
    path.write_text(path.read_text().replace("mat", "hat"))
    with pytest.raises(InputError, match="was changed after it was made"):
        CocoPrompts(path=str(path), count=3, seed=5).read()


def test_coco_prompts_that_are_not_finished_are_refused(tmp_path: Path) -> None:
    path = coco_prompts(tmp_path, finished=False)
    with pytest.raises(InputError, match="is not finished"):
        CocoPrompts(path=str(path), count=3, seed=5).read()


def test_partial_coco_prompts_are_taken_only_where_the_protocol_says_so(tmp_path: Path) -> None:
    path = coco_prompts(tmp_path, partial=True)
    with pytest.raises(InputError, match="allow_partial=true"):
        CocoPrompts(path=str(path), count=30_000, seed=5).read()
    assert CocoPrompts(path=str(path), count=30_000, seed=5, allow_partial=True).read() == READ
    found = CocoPrompts(path=str(path), count=2, seed=5, allow_partial=True).read()
    assert found == READ[:2]


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}'])
def test_a_broken_provenance_is_refused(tmp_path: Path, content: str) -> None:
    path = coco_prompts(tmp_path)
    (path.parent / PROVENANCE).write_text(content)
    with pytest.raises(InputError, match="remove its folder"):
        CocoPrompts(path=str(path), count=3, seed=5).read()
