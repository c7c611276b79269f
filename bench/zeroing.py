"""Magnitude pruning of both networks of Stable Diffusion 2 at real size, with random weights:
seconds and memory, each network in a fresh process.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from bksdm.evaluation.report import table
from bksdm.surgery.sparse.criteria import Magnitude
from bksdm.surgery.sparse.cut import prune
from bksdm.surgery.sparse.layers import Selection, prunable
from bksdm.surgery.sparse.method import Method

GB: Final = 10**9
DTYPES: Final = {"float16": torch.float16, "float32": torch.float32}
POINT: Final = {"text_encoder": 0.475, "unet": 0.35}  # the paper's


def empty(component: str) -> nn.Module:
    """A network of SD 2 without weights."""
    config = dict[str, Any]()
    for teacher in ("sd14", "sd21_base"):  # the second says what is other than in the first
        text = (Path(__file__).parents[1] / f"conf/teacher/{teacher}.yaml").read_text()
        config |= yaml.safe_load(text)["architecture"][component]
    with init_empty_weights(include_buffers=False):
        if component == "unet":
            made: nn.Module = UNet2DConditionModel.from_config(config)
            return made
        return CLIPTextModel(CLIPTextConfig(**config))


def zeroed(component: str, dtype: str, layers: str, granularity: str) -> dict[str, float]:
    """Seconds, and bytes: of the network, and that this process has had beside it at most."""
    torch.set_num_threads(os.cpu_count() or 1)
    network = empty(component).to(DTYPES[dtype]).to_empty(device="cpu").eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=rng)
    size = sum(each.nbytes for each in network.parameters())
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    begin = time.perf_counter()
    plan = prune(
        network,
        prunable([network], Selection(layers=layers))[0],
        component=component,
        sparsity=POINT[component],
        method=Method(name="magnitude", criterion=Magnitude(), granularity=granularity),
    )
    taken = time.perf_counter() - begin
    return {"seconds": taken, "size": size, "more": status("VmHWM") - before, "zeros": plan.zeros}


def zeroing() -> str:
    """A row a precision, selection and granularity; both networks, one after the other."""
    rows = []
    for dtype, layers, granularity in [
        ("float16", "linear", "tensor"),
        ("float32", "linear", "tensor"),
        ("float32", "linear+conv", "tensor"),
        ("float32", "linear", "component"),
    ]:
        found = [fresh(component, dtype, layers, granularity) for component in POINT]
        zeros = sum(each["zeros"] for each in found)
        rows.append(
            [
                f"{dtype}, {layers}, by {granularity}",
                *(f"{each['seconds']:.1f}" for each in found),
                f"{sum(each['seconds'] for each in found):.1f}",
                *(f"{each['size'] / GB:.2f} + {each['more'] / GB:.2f}" for each in found),
                f"{zeros:,.0f}",
            ]
        )
    header = ["SD 2, magnitude, 47.5/35 %", "text, s", "U-Net, s", "both, s"]
    return table(rows, header=[*header, "text, GB", "U-Net, GB", "zeros"])


def fresh(*arguments: str) -> dict[str, float]:
    """`zeroed` in a process of its own."""
    command = [sys.executable, "-m", "bench.zeroing", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def status(name: str) -> int:
    """Bytes of this process's memory, by the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    print(json.dumps(zeroed(*sys.argv[1:])))
