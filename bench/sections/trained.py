"""`bksdm train` as users run it (Lightning, shards, average, logging, checkpoint, export), beside
the bare loop of the same step on batches in memory.
"""

import csv
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch

from bench.cases import Step
from bench.sections.rate import matmul_rate, step_rate
from bench.sections.section import Section
from bench.sections.shards import bksdm, latents, teacher_arguments
from bench.world import FAST
from bksdm.training.telemetry import Telemetry

LOGS: Final = 6  # of the run
GOALS: Final = "goals on one H100 or H200: 140 images/s for Base, trainer / bare loop 0.97"


def measure(section: Section) -> None:
    """The run, and what it is compared with."""
    gpu = section.setting.device.type == "cuda"
    step = Step().changed(FAST if gpu else {})
    section.note(GOALS)
    rates: list[float] = []
    section.attempt("bksdm train", lambda: rates.append(_run(section)), seconds=60 if gpu else 1)
    torch.compiler.reset()
    if rates:
        section.attempt("bare loop", lambda: _bare(section, step, rates[0]), seconds=30)


def _run(section: Section) -> float:
    setting, shards = section.setting, latents(section)
    batch, steps = setting.world.batch, setting.run
    gpu = setting.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with timed(pl.Trainer, "save_checkpoint") as saves, timed(Telemetry, "on_step_end") as ends:
        try:
            bksdm(
                *["train", *teacher_arguments(section), "student=base", "experiment=bk_sdm"],
                *[f"trainer={'gpu' if gpu else 'cpu'}", f"runs_dir={section.folder / 'runs'}"],
                *["name=run", f"data.shards={shards}/*.tar"],
                *[f"data.validation_shards={shards}/*.tar", f"data.batch_size={batch}"],
                *[f"data.global_batch={batch}", "data.flip=false", "data.window=2"],
                *[f"data.validation_samples={batch}", f"trainer.max_steps={steps}"],
                *[f"trainer.log_every_n_steps={steps // LOGS}", "protocol=none"],
                *[f"trainer.validate_every_n_steps={steps}", "samples.every_n_steps=0"],
                *["checkpoint.best=0", "export.fresh_process=false"],
            )
        finally:  # what is logged is worth a row, whatever comes after it
            run = section.folder / "runs" / "run"
            rate = _rate([end for _, end in ends], every=steps // LOGS, batch=batch)
            told = _logged(run / "metrics.csv")
            if rate is not None:
                section.row(
                    "trainer", what="bksdm train", images_per_second=f"{rate:.1f}",
                    said_by_itself=f"{statistics.median(told['images_per_second'][1:]):.1f}",
                    data_wait=f"{statistics.median(told['data_wait'][1:]):.2%}",
                    GiB=f"{max(told['memory_gib']):.1f}",
                )  # fmt: skip
    size = (run / "checkpoints" / "last.ckpt").stat().st_size / 2**30
    seconds = saves[-1][1] - saves[-1][0]
    section.note(
        f"checkpoint: {size:.2f} GiB in {seconds:.1f} s ({size / seconds:.2f} GiB/s), while"
        " training waits (checkpoint.background=false)"
    )
    assert rate is not None
    return rate


def _rate(ends: Sequence[float], *, every: int, batch: int) -> float | None:
    """Images/s by the wall's clock, from the first logged step to the last: when a step is logged
    the device has finished it. None if there are no two.
    """
    logged = ends[every - 1 :: every]
    if len(logged) < 2:
        return None
    return (len(logged) - 1) * every * batch / (logged[-1] - logged[0])


def _bare(section: Section, step: Step, through: float) -> None:
    setting = section.setting
    rate = step_rate(setting, step, batch=setting.world.batch)
    cells = rate.cells(matmul_rate(setting))
    section.row(
        "trainer", what="bare loop", images_per_second=cells["images/s"], GiB=cells["GiB"],
        of_matmul=cells["of matmul"],
    )  # fmt: skip
    section.row("trainer", what="trainer / bare", images_per_second=f"{through / rate.images:.3f}")


@contextmanager
def timed(owner: type, method: str) -> Iterator[list[tuple[float, float]]]:
    """When every call of a method began and ended, inside the block."""
    calls: list[tuple[float, float]] = []
    plain = getattr(owner, method)

    def clocked(self: Any, *arguments: Any, **settings: Any) -> None:
        begin = time.perf_counter()
        plain(self, *arguments, **settings)
        calls.append((begin, time.perf_counter()))

    setattr(owner, method, clocked)
    try:
        yield calls
    finally:
        setattr(owner, method, plain)


def _logged(file: Path) -> dict[str, list[float]]:
    """What the run has logged of its speed, by name."""
    values: dict[str, list[float]] = {}
    if not file.exists():
        return values
    with file.open() as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if name.startswith("speed/") and value:
                    values.setdefault(name.removeprefix("speed/"), []).append(float(value))
    return values
