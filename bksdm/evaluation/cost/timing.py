"""Times calls in turn: once each, then once each again, so that whatever else the machine does
meanwhile hits all of them, and their ratios, round by round, mean more than their times.

Knows devices. Knows nothing of models.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Quartiles:
    """The middle of some values: their median, and their lower and upper quartile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Samples:
    """One call, timed several times.

    Attributes:
        seconds: of every round.
        growth: the most bytes that the device had allocated during a call, above what it had
            before; None on a CPU: a process cannot tell what a call takes from memory that its
            allocator has kept from an earlier one.
    """

    seconds: tuple[float, ...]
    growth: int | None


@dataclass(frozen=True)
class Measured:
    """One thing that a model was timed at, beside a baseline.

    Attributes:
        batch: rows of a U-Net call, or images.
        seconds: of a call, whole batch; None if it ran out of memory.
        per_second: rows or images a second, from the median.
        ratio: of times to the baseline's in the same round; None if either ran out of memory.
        peak_bytes: on a GPU, the model's weights and the most that a call allocated beside them;
            None on a CPU (see `Samples`), and out of memory.
        out_of_memory: whether it was.
    """

    batch: int
    seconds: Quartiles | None
    per_second: float | None
    ratio: Quartiles | None
    peak_bytes: int | None
    out_of_memory: bool


def quartiles(values: Sequence[float]) -> Quartiles:
    """Interpolated between the values, never beyond them."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return Quartiles(median, low, high)


def ratios(seconds: Sequence[float], baseline: Sequence[float]) -> Quartiles:
    """Quartiles of time / baseline's time, round by round."""
    return quartiles([ours / theirs for ours, theirs in zip(seconds, baseline, strict=True)])


def samples_in_turn(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    device: torch.device,
    advance: Callable[[int], object] = lambda count: None,
) -> dict[str, Samples | None]:
    """Time every call once a round, in their order; `advance` is told of each.

    Returns:
        What was timed, by name; None for a call that ran out of memory, which is not tried again.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    growth: dict[str, int | None] = dict.fromkeys(calls)
    failed: set[str] = set()
    for _ in range(rounds):
        for name, call in calls.items():
            sample = None if name in failed else _sample(call, device)
            if sample is None:
                failed.add(name)
            else:
                seconds[name] += sample.seconds
                growth[name] = _most(growth[name], sample.growth)
            advance(1)
    return {
        name: None if name in failed else Samples(tuple(seconds[name]), growth[name])
        for name in calls
    }


def _most(one: int | None, other: int | None) -> int | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _sample(call: Call, device: torch.device) -> Samples | None:
    gpu = device.type == "cuda"
    before = 0
    if gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    begin = time.perf_counter()
    try:
        call()
        if gpu:
            torch.cuda.synchronize(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        seconds = time.perf_counter() - begin
        growth = torch.cuda.max_memory_allocated(device) - before if gpu else None
        return Samples((seconds,), growth)
    # Only here, where the error and with it the frames that hold the call's tensors are gone.
    if gpu:
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: torch's on a GPU or a CPU, cuBLAS's or cuDNN's."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("ALLOC_FAILED", "DefaultCPUAllocator")
    )


@dataclass(frozen=True)
class Stopwatch:
    """How calls are timed: calls that are not counted first, the device, and who is told of each
    call.
    """

    warmup: int
    device: torch.device
    advance: Callable[[int], object]

    def measured(
        self,
        calls: Mapping[str, Call],
        warm_ups: Mapping[str, Call] | None = None,
        *,
        rounds: int,
        batch: int,
        weights: Mapping[str, int],
    ) -> dict[str, Measured]:
        """Time calls on `batch` rows in turn, of which the first is the baseline, after warm-up
        calls (None: the same ones); `weights` are the bytes of each one's networks.
        """
        warm = self._in_turn(warm_ups or calls, rounds=self.warmup)
        fitting = {name: call for name, call in calls.items() if warm[name] is not None}
        self.advance(rounds * (len(calls) - len(fitting)))
        samples = warm | self._in_turn(fitting, rounds=rounds)
        baseline = samples[next(iter(calls))]
        return {
            name: _beside(samples[name], baseline, batch=batch, weights=weights[name])
            for name in calls
        }

    def _in_turn(self, calls: Mapping[str, Call], *, rounds: int) -> dict[str, Samples | None]:
        return samples_in_turn(calls, rounds=rounds, device=self.device, advance=self.advance)


def _beside(
    samples: Samples | None, baseline: Samples | None, *, batch: int, weights: int
) -> Measured:
    if samples is None:
        return Measured(batch, None, None, None, None, out_of_memory=True)
    seconds = quartiles(samples.seconds)
    return Measured(
        batch=batch,
        seconds=seconds,
        per_second=batch / seconds.median,
        ratio=None if baseline is None else ratios(samples.seconds, baseline.seconds),
        peak_bytes=None if samples.growth is None else weights + samples.growth,
        out_of_memory=False,
    )
