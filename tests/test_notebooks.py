"""What the committed notebooks are; `make notebooks` says that they run."""

import importlib
import re
from pathlib import Path

import nbformat
import pytest

from scripts.notebooks import environment, read, sources, stripped, text

NOTEBOOKS = sources([])
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path: Path) -> str:
    return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code")


def test_numbers_have_no_gap() -> None:
    names = [path.name for path in NOTEBOOKS]
    assert names
    assert [name[:3] for name in names] == [f"{i + 1:02d}_" for i in range(len(names))]


@each
def test_committed_without_outputs_and_an_editors_metadata(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == text(stripped(read(path)))
    assert not re.search(r'"(output_type|execution_count": [0-9])', path.read_text())


@each
def test_valid_with_a_stable_id_a_cell(path: Path) -> None:
    notebook = read(path)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@each
def test_begins_with_a_title(path: Path) -> None:
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


@each
def test_imports_bksdm(path: Path) -> None:
    assert re.search(r"^(from|import) bksdm", code(path), re.MULTILINE)


@each
def test_defines_nothing(path: Path) -> None:
    assert not re.search(r"^\s*(async def|def|class) |\blambda\b", code(path), re.MULTILINE)


@each
def test_names_no_place_of_a_machine(path: Path) -> None:
    words = "\n".join(cell.source for cell in read(path).cells)
    assert not re.search(r"(?<![\w:/.])/(home|root|tmp|work|usr|Users|opt|mnt)\b|[A-Z]:\\", words)


def test_stripping_takes_outputs_counts_and_metadata_and_leaves_the_words() -> None:
    cell = nbformat.v4.new_code_cell("1 + 1", id="sum", execution_count=3)
    cell.outputs = [nbformat.v4.new_output("stream", text="2")]
    cell.metadata["collapsed"] = True
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["widgets"] = {}
    (left,) = stripped(notebook).cells
    assert (left.source, left.id) == ("1 + 1", "sum")
    assert (left.outputs, left.execution_count, dict(left.metadata)) == ([], None, {})
    assert "widgets" not in stripped(notebook).metadata


@each
def test_what_it_imports_is_there(path: Path) -> None:
    imports = re.findall(r"^from (bksdm[\w.]*) import (.+)$", code(path), re.MULTILINE)
    assert imports
    for module, names in imports:
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), (module, name)


def test_kernels_share_the_cores_whatever_one_process_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert environment(jobs=2)["OMP_NUM_THREADS"] == "2"
