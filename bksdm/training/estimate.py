"""What a run will cost: time from a pace, money from time, bytes on disk from its settings."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bksdm.models.devices import Accelerator
from bksdm.training.rehearsal import StepTime

BEST: Final = 0.35  # MFU of the best published training of this U-Net (MLPerf v5.0, H200)
REFERENCE: Final = 0.09  # of BK-SDM's own code (A100, 11.9 images/s, VAE in the loop)


@dataclass(frozen=True)
class Pace:
    """How fast one device goes.

    Attributes:
        basis: where the figure comes from, in words.
        images_per_second: of one device.
        data_wait: part of the time in which it waits for its batch; None if nothing was measured.
    """

    basis: str
    images_per_second: float
    data_wait: float | None = None


@dataclass(frozen=True)
class Work:
    """What is left to do.

    Attributes:
        images: samples that the remaining optimiser steps take.
        devices: that share them.
    """

    images: int
    devices: int

    def hours(self, pace: Pace) -> float:
        """From start to end. Communication between devices is not in it."""
        return self.images / (pace.images_per_second * self.devices) / 3600

    def device_hours(self, pace: Pace) -> float:
        """Over all devices."""
        return self.hours(pace) * self.devices


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of an image.

    Attributes:
        useful: of teacher and student, as MFU counts them (`models.cost.step_flops`).
        computed: with the encoders and the second forward of gradient checkpointing, where the
            run has them.
    """

    useful: int
    computed: int


def paces_of(device: Accelerator, *, precision: str, flops: StepFlops) -> list[Pace]:
    """What a device could do, and what has been published: at its peak, at the best MFU, at the
    reference code's. Empty where it has no peak for the precision.
    """
    peak = device.peak(precision)
    if peak is None:
        return []
    rate = peak * 1e12
    return [
        Pace(f"{device.name}, 100 % of its {peak:g} TFLOP/s", rate / flops.computed),
        Pace(f"{device.name}, 35 % (best published)", BEST * rate / flops.computed),
        # A useful share: what else the reference computes is among what it loses.
        Pace(f"{device.name}, 9 % (reference code)", REFERENCE * rate / flops.useful),
    ]


def pace_measured(times: Sequence[StepTime], *, images: int) -> Pace:
    """From the timed steps of a rehearsal.

    Args:
        times: of the steps; the median counts.
        images: that this device took in a step.
    """
    seconds = median(each.seconds for each in times)
    wait = sum(each.data_wait for each in times) / sum(each.seconds for each in times)
    return Pace(f"{len(times)} steps timed here", images / seconds, wait)


@dataclass(frozen=True)
class Disk:
    """Bytes that a run leaves in its folder, by part.

    Attributes:
        checkpoints: the last, the one before, the one being written, the best and the kept ones.
        student: the exported folder.
        grids: pictures, and the same again among TensorBoard's events.
    """

    checkpoints: int
    student: int
    grids: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


def disk_of(
    *,
    parameters: int,
    encoder_parameters: int,
    copies: int,
    grids: int,
    pictures: int,
    resolution: int,
) -> Disk:
    """Bytes on disk.

    Args:
        parameters: of the student.
        encoder_parameters: of VAE and text encoder, which are exported with it.
        copies: checkpoints that are there at once.
        grids: drawn over the whole run.
        pictures: of each grid.
        resolution: of a picture; it is counted as if a PNG saved nothing.
    """
    checkpoint = 16 * parameters  # fp32: weights, average, and AdamW's two moments
    return Disk(
        checkpoints=copies * checkpoint,
        student=4 * (parameters + encoder_parameters),
        grids=2 * grids * pictures * 3 * resolution**2,
    )


def checkpoint_copies(*, max_steps: int, best: int, keep_every_n_steps: int) -> int:
    """Checkpoints that lie beside each other in the end, and one that is being written."""
    kept = max_steps // keep_every_n_steps if keep_every_n_steps else 0
    return 3 + best + kept


def grids_of(*, max_steps: int, every_n_steps: int) -> int:
    """Sample grids of a run: at each multiple of the interval, and at the end."""
    return math.ceil(max_steps / every_n_steps) if every_n_steps else 0


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there: whose disk it will lie on."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def bytes_of(paths: Iterable[Path]) -> int:
    """Bytes of the files that are there already."""
    return sum(path.stat().st_size for path in paths if path.is_file())
