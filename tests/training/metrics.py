"""What runs have logged, to be compared."""

import csv
from collections.abc import Collection
from pathlib import Path

import pytest


def measured(path: Path, *, without: Collection[str] = ()) -> list[list[tuple[str, str]]]:
    """The rows of a metrics.csv, but for what the clock says, and without some columns."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return sorted(
        [
            (name, value)
            for name, value in row.items()
            if value and "speed/" not in name and name not in without
        ]
        for row in rows
    )


def assert_same_losses(
    first: Path, second: Path, *, rel: float, without: Collection[str] = ()
) -> None:
    """Step by step, to float tolerance; the same rows in both runs' folders, but for some columns
    that may differ.
    """
    one, other = (measured(f / "metrics.csv", without=without) for f in (first, second))
    assert len(one) == len(other)
    for row, again in zip(one, other, strict=True):
        assert [name for name, _ in row] == [name for name, _ in again]
        values = [[float(value) for _, value in each] for each in (row, again)]
        assert values[0] == pytest.approx(values[1], rel=rel)
