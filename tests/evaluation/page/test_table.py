"""What ratios of time are to, in the table and in a verdict."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bksdm.evaluation.page.evaluated import by_protocol
from bksdm.evaluation.page.models import models_of
from bksdm.evaluation.page.sources import Source
from bksdm.evaluation.page.table import table
from bksdm.evaluation.page.verdicts import verdict_lines
from bksdm.evaluation.results import ModelResult
from tests.evaluation.page.world import compared, shapes_result

NAMES = ("shapes", "runs/base", "runs/small")


def results(beside: Mapping[str, str | None], *, baseline: bool = True) -> list[ModelResult]:
    """Of these models, each timed beside another."""
    made = []
    for number, name in enumerate(NAMES):
        result = shapes_result(name, number)
        timed = {} if beside[name] is None else {"baseline": beside[name]}
        made.append(replace(result, speed={**(result.speed or {}), **timed}))
    return [made[0], *(compared(each, made[0]) for each in made[1:])] if baseline else made


def ratios(found: list[ModelResult]) -> dict[str, list[str]]:
    """The asides of columns of ratios of time, under their notes."""
    sources = [Source(result, Path(), "", {}) for result in found]
    [evaluated] = by_protocol(sources, models_of(sources))
    made = table(evaluated)
    return {
        column.note: [row.cells[i].aside for row in made.rows]
        for i, column in enumerate(made.columns)
        if column.name == "Image" and "ratio" in column.note
    }


@pytest.mark.parametrize("beside", ["shapes", None])
def test_of_one_baseline_it_is_enough_to_say_so(beside: str | None) -> None:
    assert list(ratios(results(dict.fromkeys(NAMES, beside)))) == ["ratio to baseline"]


def test_without_a_baseline_the_model_is_named() -> None:
    found = ratios(results(dict.fromkeys(NAMES, "runs/base"), baseline=False))
    assert list(found) == ["ratio to base"]
    # Nor is it the verdicts' baseline:
    assert list(ratios(results(dict.fromkeys(NAMES, "runs/base")))) == ["ratio to base"]


def test_of_models_that_were_timed_beside_different_ones_each_is_named() -> None:
    beside = {"shapes": "shapes", "runs/base": "shapes", "runs/small": "runs/base"}
    [(note, asides)] = ratios(results(beside)).items()
    assert note == "ratio to the model it was timed beside"
    assert [aside.partition(", ")[2] for aside in asides] == ["to shapes", "to shapes", "to base"]
    assert all(aside[0].isdigit() for aside in asides)


def test_a_verdict_names_what_is_not_its_baseline() -> None:
    beside = {"shapes": "shapes", "runs/base": "shapes", "runs/small": "runs/base"}
    sources = [Source(result, Path(), "", {}) for result in results(beside)]
    models = models_of(sources)
    [evaluated] = by_protocol(sources, models)
    lines = {line.model.name: line.costs for line in verdict_lines(evaluated, models)}
    assert "the time of an image (quartiles" in lines["runs/base"]
    assert "the time of an image of runs/base (quartiles" in lines["runs/small"]
