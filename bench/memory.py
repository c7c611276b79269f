"""Memory of a training step: the estimate of `bksdm check` beside what real steps take.

Each case runs in a process of its own. On a GPU the measure is `torch.cuda.max_memory_allocated`;
on the CPU it is the most that torch's allocator has handed out, by the profiler's memory events,
and, in another process without the profiler, by how much the process grew (VmHWM).
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from bksdm.evaluation.report import table
from bksdm.losses.distill import LossWeights
from bksdm.models.source import TeacherSource, architecture
from bksdm.models.teacher import load_teacher
from bksdm.surgery.blocks import feature_pairs, remove_blocks
from bksdm.surgery.plan import BASE, SMALL, BlockPlan
from bksdm.training.distill import Distillation
from bksdm.training.memory import BatchShape, traced_memory
from bksdm.training.optim import OptimizerSettings
from bksdm.training.rehearsal import Rehearsal
from bksdm.training.speed import SpeedSettings

MIB = 2**20
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration of a step."""

    teacher: str  # a named one
    resolution: int
    batch: int
    plan: BlockPlan = SMALL
    precision: str = "32-true"
    latents: bool = False
    optimizer: type[OptimizerSettings] = OptimizerSettings
    speed: SpeedSettings = field(default_factory=SpeedSettings)

    def source(self) -> TeacherSource:
        """The teacher with random weights."""
        values = yaml.safe_load((ROOT / f"conf/teacher/{self.teacher}.yaml").read_text())
        named = TeacherSource(**{key: value for key, value in values.items() if key != "_target_"})
        return replace(named, weights="random", architecture=architecture(named))

    def build(self) -> Distillation:
        """The module, on the CPU."""
        teacher = load_teacher(self.source())
        return Distillation(
            remove_blocks(teacher.unet, plan=self.plan),
            teacher,
            pairs=feature_pairs(self.plan, teacher.unet.config),
            weights=LossWeights(task=1, output_kd=1, feature_kd=1),
            optimizer=self.optimizer(
                lr=1e-5, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, schedule="constant",
                warmup_steps=0,
            ),
            speed=self.speed,
        )  # fmt: skip

    def shape(self) -> BatchShape:
        """Of a micro-batch."""
        parts = self.source().architecture
        assert parts is not None
        side = self.resolution // 2 ** (len(parts["vae"]["block_out_channels"]) - 1)
        return BatchShape(
            samples=self.batch,
            tokens=parts["text_encoder"]["max_position_embeddings"],
            pixels=None if self.latents else (3, self.resolution, self.resolution),
            moments=(2 * parts["vae"]["latent_channels"], side, side) if self.latents else None,
        )


_SHAPES = Case(teacher="shapes", resolution=64, batch=256)
_CHECKPOINTING = SpeedSettings(gradient_checkpointing=True)
_HALF = SpeedSettings(teacher_precision="bfloat16")
CASES = {
    "shapes, pictures": _SHAPES,
    "shapes, latents": replace(_SHAPES, latents=True),
    "shapes, gradient checkpointing": replace(_SHAPES, speed=_CHECKPOINTING),
    "shapes, bf16": replace(_SHAPES, precision="bf16-mixed"),
    "shapes, bf16, bf16 teacher": replace(_SHAPES, precision="bf16-mixed", speed=_HALF),
    "shapes, Base, batch 64": replace(_SHAPES, plan=BASE, batch=64),
}
_SD = Case(teacher="sd14", resolution=256, batch=1)
LARGE = {
    "SD-1.4, 256 pixels, batch 1": _SD,
    "SD-1.4, 256 pixels, batch 1, latents, bf16": replace(
        _SD, latents=True, precision="bf16-mixed"
    ),
}
_REAL = Case(teacher="sd14", resolution=512, batch=16, plan=BASE, precision="bf16-mixed")
GPU = {
    "SD-1.4 Base, batch 16, pictures": _REAL,
    "SD-1.4 Base, batch 16, latents": replace(_REAL, latents=True),
    "SD-1.4 Base, batch 16, latents, bf16 teacher": replace(_REAL, latents=True, speed=_HALF),
    "SD-1.4 Base, batch 16, gradient checkpointing": replace(_REAL, speed=_CHECKPOINTING),
    "SD-1.4 Base, batch 4, float32": replace(_REAL, precision="32-true", batch=4),
}
ALL = {**CASES, **LARGE, **GPU}


def steps(case: Case, *, device: str) -> None:
    """Two real steps: the second one has the optimiser's state and gradients of a step before."""
    module = case.build()
    module.to(device)
    module.prepare(torch.device(device))
    rehearsal = Rehearsal(module, precision=case.precision, ema_decay=0.999, max_steps=9)
    batch = case.shape().batch(torch.arange(case.batch)).to(device)
    for _ in range(2):
        rehearsal.step([batch])


def handed_out(case: Case) -> int:
    """Bytes of torch's CPU allocator at its peak."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        steps(case, device="cpu")
    assert recorded.profiler is not None
    events = [
        (event.start_ns(), event.nbytes())
        for event in recorded.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    live = peak = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        live += size
        peak = max(peak, live)
    return peak


def grown(case: Case) -> int:
    """Bytes by which this process grows."""
    gc.collect()
    before = _status("VmRSS")
    steps(case, device="cpu")
    return _status("VmHWM") - before


def on_gpu(case: Case) -> int:
    """Bytes of torch's CUDA allocator at its peak."""
    steps(case, device="cuda")
    return torch.cuda.max_memory_allocated()


def estimated(case: Case) -> int:
    """What `bksdm check` says."""
    return traced_memory(
        case.build,
        batch=case.shape(),
        precision=case.precision,
        ema_decay=0.999,
        cuda=torch.cuda.is_available(),
    ).total


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


MEASURES = {each.__name__: each for each in (estimated, handed_out, grown, on_gpu)}


def measured(name: str, measure: str) -> int:
    """A measure of a case, in a fresh process."""
    command = [sys.executable, "-m", "bench.memory", "--only", name, measure]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return int(json.loads(done.stdout.splitlines()[-1]))


def report(names: list[str]) -> str:
    """The table of these cases."""
    rows = []
    gpu = torch.cuda.is_available()
    for name in names:
        estimate = measured(name, "estimated")
        row = [name, f"{estimate / MIB:,.0f}"]
        for measure in ("on_gpu",) if gpu else ("handed_out", "grown"):
            size = measured(name, measure)
            row += [f"{size / MIB:,.0f}", f"{estimate / size:.2f}"]
        rows.append(row)
    columns = ["max_memory_allocated", "ratio"]
    if not gpu:
        columns = ["torch's allocator", "ratio", "the process grew", "ratio"]
    return table(rows, header=["peak memory, MiB", "estimate", *columns])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="SD-1.4 on the CPU, too: 16 GB")
    parser.add_argument("--only", nargs=2, metavar=("CASE", "MEASURE"), help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.only:
        name, measure = arguments.only
        print(json.dumps(MEASURES[measure](ALL[name])))
    elif torch.cuda.is_available():
        print(report(list(GPU)))
    else:
        print(report([*CASES, *(LARGE if arguments.large else {})]))


if __name__ == "__main__":
    main()
