"""How fast a run goes, and how long it waits for its data."""

import time
from dataclasses import dataclass

from pytorch_lightning.profilers import Profiler

FETCH = "[_TrainingEpochLoop].train_dataloader_next"  # Lightning's name of it


class Fetching(Profiler):
    """Adds up the seconds that Lightning waits for the next batch. No other action is timed."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._begin = 0.0

    def start(self, action_name: str) -> None:
        """Lightning's hook."""
        if action_name == FETCH:
            self._begin = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Lightning's hook."""
        if action_name == FETCH:
            self.seconds += time.perf_counter() - self._begin


@dataclass(frozen=True)
class Rate:
    """Of the steps since the last reading.

    Attributes:
        images_per_second: over all processes.
        data_wait: the part of the time in which this process waited for its batch.
    """

    images_per_second: float
    data_wait: float


class Throughput:
    """Times optimiser steps, without validation, sample grids and checkpoints in between. Rates are
    true if the device has finished when they are read, as it has once the losses are.

    The first step of a session is left out: it compiles, and warms up.
    """

    def __init__(self, fetching: Fetching, *, global_batch: int) -> None:
        self.fetching = fetching
        self.global_batch = global_batch
        self._steps = -1
        self._busy = 0.0
        self._begin = 0.0  # of a step, without the seconds that its later micro-batches wait
        self._waited = 0.0

    def begin(self) -> None:
        """A step's first micro-batch is there."""
        self._begin = time.perf_counter() - self.fetching.seconds

    def finish(self) -> None:
        """A step has ended."""
        self._steps += 1
        if self._steps == 0:
            self._waited = self.fetching.seconds
        else:
            self._busy += time.perf_counter() - self.fetching.seconds - self._begin

    def read(self) -> Rate | None:
        """Since the last reading; None if no step was timed."""
        if self._steps < 1:
            return None
        waited = self.fetching.seconds - self._waited
        seconds = self._busy + waited
        rate = Rate(self._steps * self.global_batch / seconds, waited / seconds)
        self._steps, self._busy, self._waited = 0, 0.0, self.fetching.seconds
        return rate
