"""What a section writes down, row by row as it is measured: one that is stopped keeps its rows."""

import gc
import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.patience import ImpatientError, patience
from bench.sections.setting import Setting
from bksdm.evaluation.report import table


@dataclass
class Section:
    """One section while it runs.

    Attributes:
        file: of its rows and notes.
        folder: for what it makes; shared by the sections, so that one may find another's data.
        setting: real size, or a toy.
        seconds: it may take.
    """

    file: Path
    folder: Path
    setting: Setting
    seconds: float
    _begin: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self._begin + self.seconds - time.monotonic()

    def row(self, title: str, **cells: str | float) -> None:
        """A row of the table of that title; a number is shown with three digits."""
        shown = {name: c if isinstance(c, str) else f"{c:.3g}" for name, c in cells.items()}
        self._write({"table": title, "cells": shown})

    def note(self, text: str) -> None:
        """A line below the tables."""
        self._write({"note": text})

    def attempt(
        self, name: str, work: Callable[[], None], *, seconds: float, gpu: bool = False
    ) -> bool:
        """Do a part of it, and go on whatever comes of that; whether it was done.

        Args:
            name: of the part, in notes.
            work: writes its rows.
            seconds: that it needs: with less left it is not begun.
            gpu: whether it needs one.
        """
        if gpu and self.setting.device.type != "cuda":
            self.note(f"{name}: needs a GPU")
            return False
        if self.left < seconds:
            self.note(f"{name}: not begun, as {self.left:.0f} s are left of {seconds:.0f} it needs")
            return False
        begin = time.monotonic()
        try:
            with patience(int(self.left)):
                work()
        except torch.OutOfMemoryError:
            self.note(f"{name}: out of memory")
        except ImpatientError as error:
            self.note(f"{name}: stopped, as it takes {error}")
        except Exception as error:
            traceback.print_exc()
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._write({"failed": f"{name}: {type(error).__name__}: {line[:200]}"})
        else:
            print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
            return True
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return False

    def _write(self, line: Mapping[str, object]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Written:
    """What a section has written down.

    Attributes:
        text: its tables and notes.
        failed: what went wrong, a line each.
    """

    text: str
    failed: tuple[str, ...]


def read(file: Path) -> Written:
    """What a section has written into its file, whole or not."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    tables: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        if "table" in line:
            tables.setdefault(line["table"], []).append(line["cells"])
    failed = tuple(line["failed"] for line in lines if "failed" in line)
    notes = [f"- {line.get('note') or 'FAILED ' + line['failed']}"
             for line in lines if "table" not in line]  # fmt: skip
    parts = [*(_shown(title, rows) for title, rows in tables.items()), "\n".join(notes)]
    return Written("\n\n".join(part for part in parts if part), failed)


def _shown(title: str, rows: Iterable[Mapping[str, str]]) -> str:
    """Columns in the order in which they came; what a row has not is a dash."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    first, *rest = columns
    lines = [[row.get(name, "-") for name in columns] for row in rows]
    return table(lines, header=[f"{title}: {first}", *rest])
