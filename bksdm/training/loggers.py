"""Where a run's numbers go: metrics.csv and TensorBoard events in its folder, and another logger if
one is wanted. A resumed run goes on with the rows that its checkpoint knows.
"""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

METRICS = "metrics.csv"


def run_loggers(
    folder: Path, *, first_step: int, extra: Callable[[], Logger] | None
) -> list[Logger]:
    """The loggers of the first process; the others have none."""
    kept = metrics_until(folder / METRICS, first_step)
    table = CSVLogger(folder, name="", version="")
    table.experiment.metrics.extend(kept)
    table.save()
    more = [extra()] if extra else []
    return [table, TensorBoardLogger(folder, name="", version=""), *more]


def metrics_until(path: Path, step: int) -> list[dict[str, Any]]:
    """What was logged up to a step: Lightning's CSV logger deletes the file of a resumed run.

    A copy stays beside it, should a kill come between deletion and rewriting.
    """
    copy = path.with_suffix(".bak")
    current, copied = _csv_rows(path), _csv_rows(copy)
    if len(current) >= len(copied) and path.exists():
        shutil.copyfile(path, copy)
    rows = max(current, copied, key=len)
    return [row for row in rows if int(row["step"]) < step]


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [
            {name: value for name, value in row.items() if name and value}
            for row in csv.DictReader(file)
        ]
    # A kill may have cut the last line off.
    return [row for row in rows if str(row.get("step", "")).isdigit()]
