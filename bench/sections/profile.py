"""Where the time of a training step goes, kernel by kernel and by what kernels are for."""

import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.sections.section import Section

# By names of kernels on a GPU, of operators on the CPU; the first that fits.
PURPOSES: Final = {
    "fused by compile": r"triton_(poi|per)",  # named after all that went into them
    "attention": r"flash|fmha|sdpa|scaled_dot_product|softmax",
    "optimiser, average, clipping": r"adam|multi_tensor|foreach|lerp",
    "norms": r"(group|layer|batch)_?norm|rowwise_?moments",
    "other, fused by compile": r"triton",
    "convolutions": r"conv|fprop|dgrad|wgrad|implicit",
    "matrix products": r"gemm|nvjet|cutlass|matmul|addmm|\bmm\b|bmm|linear",
    "copies, casts, layouts": r"copy|memcpy|memset|transpose|nhwc|nchw|::cat|fill|zero",
}
TOP: Final = 12


def purpose(kernel: str) -> str:
    """What a kernel is for, by its name."""
    fits = (name for name, words in PURPOSES.items() if re.search(words, kernel, re.IGNORECASE))
    return next(fits, "other")


def profiled(section: Section, work: Callable[[], object]) -> None:
    """Write down the shares of what `work` does: on a GPU of the time in which it computes, and how
    long it is idle.
    """
    gpu = section.setting.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]
    with profile(activities=activities) as recorded:
        begin = time.perf_counter()  # the profiler itself takes seconds to begin and to end
        work()
        wall = time.perf_counter() - begin
    seconds: dict[str, float] = {}
    calls: dict[str, int] = {}
    for event in recorded.key_averages():
        if (event.device_type == DeviceType.CUDA) != gpu or event.is_user_annotation:
            continue  # an annotation spans kernels that are there themselves
        spent = event.self_device_time_total if gpu else event.self_cpu_time_total
        seconds[event.key] = seconds.get(event.key, 0) + spent / 1e6
        calls[event.key] = calls.get(event.key, 0) + event.count
    total = sum(seconds.values())
    by_purpose: dict[str, float] = defaultdict(float)
    for name, spent in seconds.items():
        by_purpose[purpose(name)] += spent
    for name, spent in sorted(by_purpose.items(), key=lambda item: -item[1]):
        section.row("profile", purpose=name, share=f"{spent / total:.1%}")
    for name in sorted(seconds, key=lambda name: -seconds[name])[:TOP]:
        share, number = f"{seconds[name] / total:.1%}", str(calls[name])
        section.row("top", kernel=name[:90], share=share, calls=number)
    if gpu:  # with the profiler, which makes the host slower
        section.note(f"profile: the GPU is idle for {max(0.0, 1 - total / wall):.1%} of the time")
