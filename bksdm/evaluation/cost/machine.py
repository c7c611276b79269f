"""What a time was measured on; no time means anything without it."""

import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """Where something was timed.

    Attributes:
        device: cpu, cuda:0, ...
        name: of the processor or the GPU.
        threads: of torch on the CPU, which also feed a GPU.
        torch: its version.
        cuda: the version that torch was built for; None if the device is a CPU, as are the next.
        matmul_precision: of fp32 products ("highest": no TF32).
        cudnn_tf32: whether cuDNN's fp32 convolutions may use TF32.
    """

    device: str
    name: str
    threads: int
    torch: str
    cuda: str | None
    matmul_precision: str | None
    cudnn_tf32: bool | None


def machine(device: torch.device) -> Machine:
    """This machine, as it is set now."""
    gpu = device.type == "cuda"
    return Machine(
        device=str(device),
        name=device_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        cuda=torch.version.cuda if gpu else None,
        matmul_precision=torch.get_float32_matmul_precision() if gpu else None,
        cudnn_tf32=torch.backends.cudnn.allow_tf32 if gpu else None,
    )


def device_name(device: torch.device) -> str:
    """The GPU's name; the CPU's where Linux tells it, else its architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
