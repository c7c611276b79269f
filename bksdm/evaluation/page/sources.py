"""From what the user names to results with their items, prompts and pictures."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bksdm.errors import InputError
from bksdm.evaluation.results import ITEMS, RESULTS, ModelResult, read_items, read_results
from bksdm.evaluation.score import Items

PROMPTS: Final = "prompts.csv"


@dataclass(frozen=True)
class Source:
    """A model's results under one protocol, and what lies beside them.

    Attributes:
        result: it; its scores have their items where `items.csv` has them.
        folder: where `results.json` lies.
        prompts: text by prompt id, in order; empty without `prompts.csv`.
    """

    result: ModelResult
    folder: Path
    prompts: Mapping[str, str]

    @property
    def protocol(self) -> str:
        """The name of its protocol."""
        return str(self.result.protocol.get("name", "protocol"))

    def picture(self, prompt: str) -> Path | None:
        """Where the picture of a prompt should be; None where none were kept."""
        if self.result.images is None:
            return None
        return self.folder / self.result.images / f"{prompt}{self.result.suffix}"


def sources(names: Sequence[str]) -> list[Source]:
    """The results that files, folders and runs hold, in the order of the names; of the same weights
    under the same protocol the newest.

    Raises:
        InputError: nothing there, or a file that is no results file.
    """
    found: dict[tuple[str, str], tuple[str, Source]] = {}
    for name in names:
        for file in results_files(name):
            for source in _read(file):
                key = source.result.weights, source.protocol
                date = str(source.result.environment.get("date", ""))  # ISO, UTC
                if key not in found or found[key][0] < date:
                    found[key] = date, source
    return [source for _, source in found.values()]


def results_files(name: str) -> list[Path]:
    """The results files that a name stands for.

    Raises:
        InputError: there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(
            f"{name}: nothing there; expected a results file, or a folder or run with one;"
            " `bksdm evaluate` writes them"
        )
    own = path / RESULTS
    files = [own] if own.is_file() else sorted(path.rglob(RESULTS))
    if not files:
        raise InputError(
            f"{name}: no {RESULTS} in it or below; `bksdm evaluate model={name}` writes one below"
            " its out= folder: name that"
        )
    return files


def _read(file: Path) -> list[Source]:
    results = read_results(file)
    return [_source(result, file, several=len(results) > 1) for result in results]


def _source(result: ModelResult, file: Path, *, several: bool) -> Source:
    # Items and prompts lie beside the pictures, also where the results of several models are in one
    # file elsewhere.
    beside = file.parent if result.images is None else (file.parent / result.images).parent
    items = {} if several and beside == file.parent else _items(beside)
    scores = tuple(replace(score, items=items.get(score.name)) for score in result.scores)
    return Source(replace(result, scores=scores), file.parent, _prompts(beside / PROMPTS))


def _items(folder: Path) -> dict[str, Items]:
    try:
        return read_items(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / ITEMS}: damaged ({type(error).__name__}: {error}); evaluate again"
        ) from error


def _prompts(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as opened:
        try:
            return {row["id"]: row["text"] for row in csv.DictReader(opened)}
        except KeyError as error:
            raise InputError(f"{file}: no column {error}; evaluate again") from error
