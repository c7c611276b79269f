"""`results.json`: what was measured of a model, and everything needed to measure it again."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bksdm.atomic import replacing
from bksdm.errors import InputError
from bksdm.evaluation.comparison import Comparison, Interval, Verdict
from bksdm.evaluation.environment import without_home
from bksdm.evaluation.score import Better, Items, Score

FORMAT: Final = 1
RESULTS: Final = "results.json"
ITEMS: Final = "items.csv"


@dataclass(frozen=True, kw_only=True)
class Against:
    """A model beside a baseline.

    Attributes:
        name: the baseline.
        weights: its fingerprint (`ModelResult.weights`).
        deciding: the score that the verdict is about.
        comparisons: one for each score that has items, in the order of the scores.
        not_numbers: by score, of how many items the value of either model is not a number; such a
            score has no comparison.
    """

    name: str
    weights: str
    deciding: str
    comparisons: tuple[Comparison, ...]
    not_numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> Comparison | None:
        """The comparison that decides."""
        return next((each for each in self.comparisons if each.score == self.deciding), None)

    @property
    def why_open(self) -> str:
        """Why nothing decides, in words."""
        broken = self.not_numbers.get(self.deciding, 0)
        if broken:
            return f"{self.deciding} is not a number for {broken:,} of its items"
        return f"{self.deciding} has no value of each prompt to compare"


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """Everything measured of one model under one protocol.

    Attributes:
        name: as the user named it.
        weights: sha256 over all weights of the pipeline; the same for the same model.
        protocol: name and all settings, as plain values.
        scores: in the protocol's order; `items` are not in the JSON but in `items.csv` beside it.
        against: comparisons with a baseline.
        cost: parameters and MACs, as plain values (`evaluation.cost.image_cost`); None if
            not counted.
        speed: latency and throughput, as plain values (`evaluation.cost.latency`); None if not
            measured.
        unet: the U-Net's config, for its drawing.
        plan: what of its teacher it kept, as a plan's plain values, with the teacher's
            U-Net config under "teacher"; None where it is not known.
        environment: versions, hardware, command, date, commit.
        images: folder of the pictures by prompt id, relative to the file; None if none are kept.
        suffix: of the pictures' files.
        curves: training's losses by step {name: [[step, value], ...]}; empty if not a run's.
        experts: how many U-Nets answer, of a mixture; 0 if it is none. `cost` is a mean, then.
        routing: what its router does, of a mixture, as plain values (`routing.analysis`); None
            where that is not known.
    """

    name: str
    weights: str
    protocol: Mapping[str, Any]
    scores: tuple[Score, ...]
    against: tuple[Against, ...] = ()
    cost: Mapping[str, Any] | None = None
    speed: Mapping[str, Any] | None = None
    unet: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    images: str | None = None
    suffix: str = ".png"
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    experts: int = 0
    routing: Mapping[str, Any] | None = None

    def score(self, name: str) -> Score | None:
        """The score of that name."""
        return next((score for score in self.scores if score.name == name), None)


def write_results(results: Sequence[ModelResult], path: Path) -> None:
    """Write models' results, all or nothing."""
    models = [asdict(_without_items(result)) for result in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        text = json.dumps(_plain({"format": FORMAT, "models": models}), indent=1, allow_nan=False)
        temporary.write_text(text + "\n")


def read_results(path: Path) -> list[ModelResult]:
    """The models of a results file.

    Raises:
        InputError: not there, or no such file of this format.
    """
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise InputError(
                f"{path}: format {content['format']}; this version reads format {FORMAT}:"
                " evaluate again"
            )
        return [_read_model(model) for model in content["models"]]
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there; `bksdm evaluate` writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not a results file of this version ({type(error).__name__}: {error});"
            " evaluate again"
        ) from error


def with_earlier(result: ModelResult, path: Path) -> ModelResult:
    """The result with what an earlier evaluation of the same pictures measured and this one was
    not asked for: times, and comparisons with other baselines. What cannot be read is left behind.
    """
    try:
        earlier = next(each for each in read_results(path) if each.weights == result.weights)
    except (InputError, StopIteration):
        return result
    now = {each.weights for each in result.against}
    others = tuple(each for each in earlier.against if each.weights not in now)
    return replace(result, speed=result.speed or earlier.speed, against=result.against + others)


def _without_items(result: ModelResult) -> ModelResult:
    return replace(result, scores=tuple(replace(score, items=None) for score in result.scores))


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: null. No home folder is in a path."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return without_home(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read_model(model: dict[str, Any]) -> ModelResult:
    scores = tuple(
        Score(**(_number(score) | {"better": Better(score["better"]), "items": None}))
        for score in model["scores"]
    )
    against = tuple(
        Against(**(each | {"comparisons": tuple(_comparison(c) for c in each["comparisons"])}))
        for each in model["against"]
    )
    return ModelResult(**(model | {"scores": scores, "against": against}))


def _number(score: dict[str, Any]) -> dict[str, Any]:
    return score | {"value": math.nan if score["value"] is None else score["value"]}


def _comparison(values: dict[str, Any]) -> Comparison:
    intervals = {
        name: None if values[name] is None else Interval(**values[name])
        for name in ("difference", "ratio")
    }
    return Comparison(**(values | intervals | {"verdict": Verdict(values["verdict"])}))


def write_items(scores: Sequence[Score], folder: Path) -> None:
    """The values behind the scores as `items.csv`: score, item, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["score", "item", "value"])
    for score in scores:
        if score.items is not None:
            pairs = zip(score.items.ids, score.items.values, strict=True)
            writer.writerows([score.name, item, repr(value)] for item, value in pairs)
    with replacing(folder / ITEMS) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_items(folder: Path) -> dict[str, Items]:
    """The same back, by score; empty where the file is gone.

    Raises:
        InputError: it is no such file.
    """
    path = folder / ITEMS
    if not path.exists():
        return {}
    found: dict[str, list[tuple[str, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["score"], []).append((row["item"], float(row["value"])))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the items of scores; evaluate again") from error
    return {
        name: Items(tuple(item for item, _ in pairs), tuple(value for _, value in pairs))
        for name, pairs in found.items()
    }
