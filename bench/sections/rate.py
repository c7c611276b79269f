"""How fast training steps go, and how fast the device multiplies."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bench.cases import Step
from bench.runners import BareLoop, Reference, Runner
from bench.sections.setting import Setting
from bksdm.surgery.plan import BASE, BlockPlan

MATMULS = 20


def matmul_rate(setting: Setting) -> float:
    """FLOP/s of products of square matrices of random numbers, at the precision of the steps: what
    the rates of training are measured by.
    """
    side, device = setting.matmul, setting.device
    a, b = (torch.randn(side, side, device=device, dtype=setting.precision) for _ in range(2))
    for _ in range(3):
        a @ b
    _wait(device)
    begin = time.perf_counter()
    for _ in range(MATMULS):
        a @ b
    _wait(device)
    return MATMULS * 2 * side**3 / (time.perf_counter() - begin)


@dataclass(frozen=True)
class Rate:
    """Of training steps.

    Attributes:
        ready: seconds of the first steps, which compile.
        images: a second.
        flops: useful ones a second.
        memory: bytes, the most that was allocated; None on the CPU.
    """

    ready: float
    images: float
    flops: float
    memory: int | None

    def cells(self, matmul: float) -> dict[str, str]:
        """Of a table."""
        return {
            "images/s": f"{self.images:.1f}",
            "TFLOP/s": f"{self.flops / 1e12:.3g}",
            "of matmul": f"{self.flops / matmul:.1%}",
            "ready, s": f"{self.ready:.0f}",
            "GiB": "-" if self.memory is None else f"{self.memory / 2**30:.1f}",
        }


@contextmanager
def bare_loop(setting: Setting, step: Step, *, batch: int, plan: BlockPlan) -> Iterator[BareLoop]:
    """The steps of a run without a trainer, on batches in memory."""
    batches = setting.batches_in_memory(batch, pictures=step.pictures)
    runner = BareLoop(setting.bench(batch=batch, plan=plan), step, batches)
    try:
        yield runner
    finally:
        runner.close()
        torch.compiler.reset()


def step_rate(setting: Setting, step: Step, *, batch: int, plan: BlockPlan = BASE) -> Rate:
    """Of a bare loop, once it is warm and compiled."""
    with bare_loop(setting, step, batch=batch, plan=plan) as runner:
        return rate_of(runner, setting, batch, flops=setting.flops(plan))


def reference_rate(setting: Setting, *, batch: int) -> Rate:
    """Of the reference recipe, from pictures that are decoded already. Useful FLOPs are those of
    our step, so that both are measured by the same.
    """
    batches = setting.batches_in_memory(batch, pictures=True)
    runner = Reference(setting.bench(batch=batch), Step(loop="reference"), batches)
    return rate_of(runner, setting, batch, flops=setting.flops(BASE))


def rate_of(runner: Runner, setting: Setting, batch: int, *, flops: int) -> Rate:
    """Of a block of steps, after one that is not timed; `flops` are of a picture."""
    gpu, begin = setting.device.type == "cuda", time.perf_counter()
    runner.block(2)
    ready = time.perf_counter() - begin
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    images = setting.steps * batch / runner.block(setting.steps)
    memory = torch.cuda.max_memory_allocated() if gpu else None
    return Rate(ready, images, images * flops, memory)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
