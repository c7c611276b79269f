"""From what the user names to results with their items, prompts and pictures."""

import csv
import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bksdm.errors import InputError
from bksdm.evaluation.gallery import DIGITS as GALLERY_DIGITS
from bksdm.evaluation.gallery import slug
from bksdm.evaluation.results import ITEMS, RESULTS, ModelResult, read_items, read_results
from bksdm.evaluation.score import Items

PROMPTS: Final = "prompts.csv"
EVALUATIONS: Final = Path("evaluation")


@dataclass(frozen=True)
class Source:
    """A model's results under one protocol, and what lies beside them.

    Attributes:
        result: it; its scores have their items where `items.csv` has them.
        folder: where `results.json` lies.
        named: what the user named.
        prompts: text by prompt id, in order; empty without `prompts.csv`.
    """

    result: ModelResult
    folder: Path
    named: str
    prompts: Mapping[str, str]

    @property
    def protocol(self) -> str:
        """The name of its protocol."""
        return str(self.result.protocol.get("name", "protocol"))

    @property
    def place(self) -> tuple[object, ...]:
        """What galleries of one model under one protocol share, whatever its weights."""
        images = self.result.images
        folder = self.folder if images is None else (self.folder / images).parent
        stem, name = folder.name[: -GALLERY_DIGITS - 1], slug(self.result.name)
        return (folder.parent if stem == name else folder, self.result.name, self.protocol)

    def picture(self, prompt: str) -> Path | None:
        """Where the picture of a prompt should be; None where none were kept."""
        if self.result.images is None:
            return None
        return self.folder / self.result.images / f"{prompt}{self.result.suffix}"


def sources(names: Sequence[str], *, evaluations: Path = EVALUATIONS) -> list[Source]:
    """The results of files, folders, runs and models, in the order of the names, after the
    baselines that they were compared with; of what one name stands for in one place the newest
    weights, of the same weights under the same protocol the most prompts, then the newest.

    Args:
        names: what the user named.
        evaluations: where `bksdm evaluate` writes.

    Raises:
        InputError: nothing there, or a file that is no results file.
    """
    named: list[Source] = []
    for name in names:
        files = results_files(name, evaluations=evaluations)
        named += _newest([source for file in files for source in _read(file, named=name)])
    found: dict[tuple[str, str], Source] = {}
    for source in [*_baselines(named, evaluations), *named]:
        key = source.result.weights, source.protocol
        if key not in found or _rank(found[key]) < _rank(source):
            found[key] = source
    return list(found.values())


def _newest(of_one_name: Sequence[Source]) -> list[Source]:
    """Without galleries of what a model was before it was trained further: the same model's under
    the same protocol in the same place, of other weights.
    """
    newest: dict[tuple[object, ...], Source] = {}
    for source in of_one_name:
        newest[source.place] = max(newest.get(source.place, source), source, key=_date)
    weights = {place: source.result.weights for place, source in newest.items()}
    return [source for source in of_one_name if source.result.weights == weights[source.place]]


def _rank(source: Source) -> tuple[int, str]:
    """A trial on a few prompts does not take the place of an evaluation."""
    return int(source.result.protocol.get("prompts", 0)), _date(source)


def _date(source: Source) -> str:
    return str(source.result.environment.get("date", ""))  # ISO, UTC


def _baselines(named: Sequence[Source], evaluations: Path) -> list[Source]:
    """Those of the named that are not among them."""
    there = {(source.result.weights, source.protocol) for source in named}
    wanted = {
        (against.weights, source.protocol) for source in named for against in source.result.against
    }
    result = []
    for protocol in sorted({protocol for _, protocol in wanted - there}):
        for file in sorted((evaluations / protocol).glob(f"*/{RESULTS}")):
            result += [
                source
                for source in _read(file, named=str(file.parent))
                if (source.result.weights, protocol) in wanted - there
            ]
    return result


def results_files(name: str, *, evaluations: Path) -> list[Path]:
    """The results files that a name stands for: itself, those in the folder, and those that
    `bksdm evaluate` wrote of the model.

    Raises:
        InputError: there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    # Its own first: a run's names models as training does; the others are of `bksdm evaluate`.
    own = sorted(path.rglob(RESULTS), key=lambda file: (len(file.parts), file))
    digits = "[0-9a-f]" * GALLERY_DIGITS
    alike = sorted(evaluations.glob(f"*/{glob.escape(slug(name))}-{digits}/{RESULTS}"))
    of_model = [file for file in alike if _is_of(file, name)]  # runs/a-b and runs-a/b are alike
    files = list(dict.fromkeys([*own, *of_model]))
    if not files:
        raise InputError(
            f"{name}: no results there, nor of it in {evaluations}; `bksdm evaluate model={name}`"
            " writes them"
        )
    return files


def _is_of(file: Path, name: str) -> bool:
    wanted = os.path.normpath(name)  # runs/a/ and ./runs/a are runs/a
    return any(os.path.normpath(result.name) == wanted for result in read_results(file))


def _read(file: Path, *, named: str) -> list[Source]:
    results = read_results(file)
    several = len(results) > 1
    return [_source(result, file, named=named, several=several) for result in results]


def _source(result: ModelResult, file: Path, *, named: str, several: bool) -> Source:
    # Items and prompts lie beside the pictures, also where the results of several models are in one
    # file elsewhere.
    beside = file.parent if result.images is None else (file.parent / result.images).parent
    items = {} if several and beside == file.parent else _items(beside)
    scores = tuple(replace(score, items=items.get(score.name)) for score in result.scores)
    return Source(replace(result, scores=scores), file.parent, named, _prompts(beside / PROMPTS))


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
