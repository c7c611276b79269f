"""Files of prompts: .txt with one a line, .csv and .jsonl with the columns id and text.

Knows nothing of seeds or of where the prompts come from.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bksdm.data.listing import jsonl_rows
from bksdm.errors import InputError

COLUMNS: Final = ("id", "text")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")

Row = Mapping[str, Any]


def read_prompt_rows(path: Path) -> list[tuple[str, str]]:
    """(id, text) of each prompt, in the file's order.

    Raises:
        InputError: the file is missing, of another kind or broken, lacks a column, or a prompt is
            empty, has the id of another, or one that is no name of a file.
    """
    rows = table_rows(path, columns=COLUMNS)
    return usable_rows(((row["id"], row["text"]) for row in rows), origin=str(path))


def usable_rows(rows: Iterable[tuple[object, object]], *, origin: str) -> list[tuple[str, str]]:
    """(id, text) of each prompt, the text on one line.

    Raises:
        InputError: there is none, or one is empty, has the id of another, or one that is no name of
            a file.
    """
    usable = [
        (_usable_id(name, origin, number), _usable_text(text, origin, number))
        for number, (name, text) in enumerate(rows, start=1)
    ]
    if not usable:
        raise InputError(f"{origin} holds no prompts; expected at least one")
    name, count = Counter(name for name, _ in usable).most_common(1)[0]
    if count > 1:
        raise InputError(f"{origin}: {count} prompts have the id {name!r}; give each its own")
    return usable


def table_rows(path: Path, *, columns: Sequence[str]) -> list[Row]:
    """The rows of a .csv or .jsonl file that has these columns; of a .txt file its lines, as id
    (their number) and text.

    Raises:
        InputError: the file is missing, of another kind or broken, or lacks a column.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{path}: expected a .txt, .csv or .jsonl file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(read(file))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{path}: no such file") from error
    except (csv.Error, ValueError) as error:
        raise InputError(f"{path} cannot be read as {path.suffix} in UTF-8: {error}") from error
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if row.get(column) is None]
        if missing:
            there = ", ".join(str(name) for name, value in row.items() if value is not None)
            raise InputError(
                f"{path}: row {number} has no {missing[0]!r} (it has {there}); expected the columns"
                f" {' and '.join(columns)}"
            )
    return rows


def prompts_text(rows: Iterable[Sequence[str]]) -> str:
    """A .csv file of prompts with their pictures: (id, text, image) of each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, "image"))
    writer.writerows(rows)
    return text.getvalue()


def _lines(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines):
        yield {"id": f"{number:06d}", "text": line}


_READERS: Final[Mapping[str, Callable[[Iterable[str]], Iterable[Row]]]] = {
    ".txt": _lines,
    ".csv": csv.DictReader,
    ".jsonl": jsonl_rows,
}


def _usable_id(value: object, origin: str, number: int) -> str:
    if not _FILE_NAME.fullmatch(str(value)):
        raise InputError(
            f"{origin}: prompt {number} has the id {str(value)[:40]!r}; it names a file, so"
            " expected letters, digits, '_', '-' and '.', at most 100"
        )
    return str(value)


def _usable_text(value: object, origin: str, number: int) -> str:
    # Tokenizers take all white space for one space, and so nothing is lost.
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not text:
        raise InputError(f"{origin}: prompt {number} is empty; write it, or remove its line")
    return text
