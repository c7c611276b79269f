"""Pruning and packing at real sizes, of Stable Diffusion 2 with random weights: magnitude on both
networks (`zeroing`), and the packed form of the text encoder.

Speed is in bytes of the dense weights, on one thread, the median of some runs. Memory is the most
that a fresh process has had (VmHWM) more than before it loads, as a share of the dense weights.
Files are written where temporary files are, and read while the machine still has them in memory.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import CLIPTextModel

from bench.zeroing import DTYPES, empty, status, zeroing
from bksdm.evaluation.report import table
from bksdm.export.packed import packed_bytes, write_packed
from bksdm.export.packed_parts import packed_networks
from bksdm.export.unpacked import read_packed
from bksdm.models.source import PACKED
from bksdm.surgery.sparse.layers import Selection, prunable

MB: Final = 10**6


def pruned_names(encoder: CLIPTextModel) -> list[str]:
    """Of its linear layers' weights."""
    return [f"{name}.weight" for name in prunable([encoder], Selection())[0]]


def random_weights(
    encoder: CLIPTextModel, dtype: torch.dtype, *, sparsity: float
) -> dict[str, Tensor]:
    """A state dict, with that share of zeros in its linear layers."""
    rng, names = torch.Generator().manual_seed(0), set(pruned_names(encoder))
    state = {}
    for name, tensor in encoder.state_dict().items():
        weight = torch.randn(tensor.shape, generator=rng)
        if name in names:
            # Not multiplied by a mask: that makes -0.0, whose bits are kept.
            weight[torch.rand(tensor.shape, generator=rng) < sparsity] = 0
        state[name] = weight.to(dtype)
    return state


def seconds(act: Callable[[], Any], *, repeats: int) -> float:
    """Of a call: the median."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def packing(folder: Path, *, sparsity: float, repeats: int) -> str:
    """Speed of packing and unpacking, sizes, and memory of loading."""
    torch.set_num_threads(1)
    encoder = empty("text_encoder")
    rows = []
    for kind, dtype in DTYPES.items():
        state = random_weights(encoder, dtype, sparsity=sparsity)
        names, dense = pruned_names(encoder), sum(each.nbytes for each in state.values())
        only = {name: state[name] for name in names}
        part = folder / kind / "text_encoder"
        part.mkdir(parents=True)
        encoder.config.save_pretrained(part)
        write_packed(state, part / PACKED, names=names)
        size = (part / PACKED).stat().st_size
        ideal = dense - sum(each.nbytes for each in only.values()) + arithmetic(only)
        assert size == packed_bytes(state, names=names)
        speeds = [*pack_speeds(only, folder, repeats=repeats)]
        speeds += [*pack_speeds(state, folder, repeats=repeats, names=names)]
        del state, only
        gc.collect()
        rows.append(
            [
                kind,
                f"{sparsity:.0%}",
                *(f"{speed / MB:,.0f}" for speed in speeds),
                f"{dense / MB:,.0f}",
                f"{size / MB:,.0f}",
                f"{size / ideal:.5f}",
                *(f"{grown(folder / kind, how) / dense:.2f}" for how in LOADS),
            ]
        )
    header = ["SD-2 text encoder", "zeros", "pack, MB/s", "unpack", "pack, all", "unpack, all"]
    header += ["dense, MB", "packed", "/ arithmetic", *(f"peak, {how}" for how in LOADS)]
    return table(rows, header=header)


def arithmetic(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of masks and kept values."""
    return sum(
        -(-each.numel() // 8) + int((each != 0).sum()) * each.dtype.itemsize
        for each in tensors.values()
    )


def pack_speeds(
    state: Mapping[str, Tensor], folder: Path, *, repeats: int, names: list[str] | None = None
) -> tuple[float, float]:
    """Dense bytes a second of packing and of unpacking; `names`: those that are packed."""
    path, dense = folder / PACKED, sum(each.nbytes for each in state.values())
    packing = seconds(
        lambda: write_packed(state, path, names=list(state) if names is None else names),
        repeats=repeats,
    )
    unpacking = seconds(lambda: read_packed(path), repeats=repeats)
    path.unlink()
    return dense / packing, dense / unpacking


def _as_stored(folder: Path) -> Any:
    return read_packed(folder / "text_encoder" / PACKED)


def _network(folder: Path) -> Any:
    dtype = DTYPES[folder.name]
    return packed_networks(folder, dtype=dtype)


LOADS: Final = {"tensors": _as_stored, "network": _network}


def load_here(folder: Path, how: str) -> int:
    """Bytes by which this process grows while it loads."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    kept = LOADS[how](folder)
    peak = status("VmHWM") - before
    del kept
    return peak


def grown(folder: Path, how: str) -> int:
    """The same in a fresh process."""
    command = [sys.executable, "-m", "bench.prune", "--load", str(folder), how]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return int(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--load", nargs=2, metavar=("FOLDER", "HOW"), help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.load:
        folder, how = arguments.load
        print(json.dumps(load_here(Path(folder), how)))
        return
    print(f"{zeroing()}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(packing(Path(folder), sparsity=arguments.sparsity, repeats=arguments.repeats))


if __name__ == "__main__":
    main()
