"""Kernels of scaled dot product attention at the head sizes of Stable Diffusion, forward and with
backward.
"""

import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from bench.sections.section import Section
from bksdm.training.speed import BACKENDS

CALLS: Final = 10
XFORMERS: Final = "BENCH_XFORMERS"  # a folder with it, for this section alone
# What torch on a GPU, torch on the CPU and xformers say to a shape that they do not take.
NO_KERNEL: Final = (
    "No available kernel",
    "No viable backend",
    "No operator found",
    "No valid execution plans",
    "cuDNN Frontend error",
)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def measure(section: Section) -> None:
    """A row a shape and kernel."""
    kernels: dict[str, Attend] = {"auto": F.scaled_dot_product_attention}
    kernels |= {name: _only(name) for name in BACKENDS}
    sys.path += [os.environ[XFORMERS]] if XFORMERS in os.environ else []
    if find_spec("xformers") is None:
        section.note("xformers: not installed")
    else:
        kernels["xformers"] = _xformers
    for shape in section.setting.attention:
        for name, attend in kernels.items():

            def one(
                shape: tuple[int, ...] = shape, name: str = name, attend: Attend = attend
            ) -> None:
                _timed(section, name, attend, shape)

            section.attempt(f"{name}, {shape}", one, seconds=1, gpu=name == "xformers")


def _timed(section: Section, name: str, attend: Attend, shape: tuple[int, ...]) -> None:
    head, tokens, keys, heads, rows = shape
    setting = section.setting
    query, key, value = (
        torch.randn(
            *(rows, heads, length, head),
            device=setting.device, dtype=setting.precision, requires_grad=True,
        )
        for length in (tokens, keys, keys)
    )  # fmt: skip
    weights = torch.randn_like(query)
    cells = {"head": str(head), "tokens": f"{tokens} x {keys}", "kernel": name}

    def forward() -> None:
        with torch.no_grad():
            attend(query, key, value)

    def both() -> None:
        torch.autograd.grad(attend(query, key, value), (query, key, value), weights)

    flops = 4 * rows * heads * tokens * keys * head
    for direction, work in (("forward", forward), ("with backward", both)):
        try:
            seconds = _seconds(work, setting.device)
        except (RuntimeError, NotImplementedError) as error:
            if not any(words in str(error) for words in NO_KERNEL):
                raise
            cells[direction] = "no such kernel"
        else:
            cells[direction] = f"{1e3 * seconds:.3f} ms"
            if work is forward:
                cells["forward TFLOP/s"] = f"{flops / seconds / 1e12:.3g}"
    section.row("attention", **cells)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(3):
        work()
    wait()
    begin = time.perf_counter()
    for _ in range(CALLS):
        work()
    wait()
    return (time.perf_counter() - begin) / CALLS


def _only(name: str) -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(BACKENDS[name]):
            return F.scaled_dot_product_attention(query, key, value)

    return attend


def _xformers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    from xformers.ops import memory_efficient_attention

    q, k, v = (part.transpose(1, 2) for part in (query, key, value))
    answer: Tensor = memory_efficient_attention(q, k, v)
    return answer.transpose(1, 2)
