"""What runs have logged, to be compared."""

import csv
from pathlib import Path

import pytest


def measured(path: Path) -> list[list[tuple[str, str]]]:
    """The rows of a metrics.csv, but for what the clock says."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return sorted(
        [(name, value) for name, value in row.items() if value and "speed/" not in name]
        for row in rows
    )


def assert_same_losses(first: Path, second: Path, *, rel: float) -> None:
    """Step by step, to float tolerance; the same rows in both runs' folders."""
    one, other = (measured(folder / "metrics.csv") for folder in (first, second))
    assert len(one) == len(other)
    for row, again in zip(one, other, strict=True):
        assert [name for name, _ in row] == [name for name, _ in again]
        values = [[float(value) for _, value in each] for each in (row, again)]
        assert values[0] == pytest.approx(values[1], rel=rel)
