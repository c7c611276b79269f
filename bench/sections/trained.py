"""`bksdm train` as users run it (Lightning, shards, average, logging, checkpoint, export), beside
the bare loop of the same step on batches in memory.
"""

import csv
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl

from bench.cases import Step
from bench.sections.rate import matmul_rate, step_rate
from bench.sections.section import Section
from bench.sections.shards import bksdm, latents, teacher_arguments
from bench.world import FAST

GOALS: Final = "goals on one H100 or H200: 140 images/s for Base, trainer / bare loop 0.97"


def measure(section: Section) -> None:
    """The run, and what it is compared with."""
    gpu = section.setting.device.type == "cuda"
    step = Step().changed(FAST if gpu else {})
    section.note(GOALS)
    rates: list[float] = []
    section.attempt("bksdm train", lambda: rates.append(_run(section)), seconds=60 if gpu else 1)
    if rates:
        section.attempt("bare loop", lambda: _bare(section, step, rates[0]), seconds=30)


def _run(section: Section) -> float:
    setting, shards = section.setting, latents(section)
    batch, steps = setting.world.batch, setting.run
    gpu = setting.device.type == "cuda"
    with timed_saves() as saves:
        bksdm(
            *["train", *teacher_arguments(section), "student=base", "experiment=bk_sdm"],
            *[f"trainer={'gpu' if gpu else 'cpu'}", f"runs_dir={section.folder / 'runs'}"],
            *["name=run", f"data.shards={shards}/*.tar", f"data.validation_shards={shards}/*.tar"],
            *[f"data.batch_size={batch}", f"data.global_batch={batch}", "data.flip=false"],
            *[f"data.validation_samples={batch}", f"trainer.max_steps={steps}"],
            *[f"trainer.log_every_n_steps={max(1, steps // 6)}", "protocol=none"],
            *[f"trainer.validate_every_n_steps={steps}", "samples.every_n_steps=0"],
            *["checkpoint.best=0", "export.fresh_process=false", "data.window=2"],
        )
    run = section.folder / "runs" / "run"
    told = _logged(run / "metrics.csv")
    rate = statistics.median(told["images_per_second"][1:])  # without the first, which warms up
    section.row(
        "trainer", what="bksdm train", images_per_second=f"{rate:.1f}",
        data_wait=f"{statistics.median(told['data_wait'][1:]):.2%}",
        GiB=f"{max(told['memory_gib']):.1f}",
    )  # fmt: skip
    size = (run / "checkpoints" / "last.ckpt").stat().st_size
    section.note(
        f"checkpoint: {size / 2**30:.2f} GiB in {saves[-1]:.1f} s ({size / 2**30 / saves[-1]:.2f}"
        " GiB/s), while training waits (checkpoint.background=false)"
    )
    return rate


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
def timed_saves() -> Iterator[list[float]]:
    """Seconds of every checkpoint that is written inside the block."""
    seconds: list[float] = []
    save = pl.Trainer.save_checkpoint

    def timed(self: pl.Trainer, *arguments: Any, **settings: Any) -> None:
        begin = time.perf_counter()
        save(self, *arguments, **settings)
        seconds.append(time.perf_counter() - begin)

    pl.Trainer.save_checkpoint = timed
    try:
        yield seconds
    finally:
        pl.Trainer.save_checkpoint = save


def _logged(file: Path) -> dict[str, list[float]]:
    """What the run has logged of its speed, by name."""
    values: dict[str, list[float]] = {}
    with file.open() as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if name.startswith("speed/") and value:
                    values.setdefault(name.removeprefix("speed/"), []).append(float(value))
    return values
