"""What a run will cost: traced, timed and counted, and put into tables."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import torch

from bksdm.cli.holds import Holds
from bksdm.cli.planned import Planned, weightless
from bksdm.cli.student import beginning, distillation
from bksdm.data.datamodule import ShardDataModule
from bksdm.data.exact import Share
from bksdm.errors import InputError
from bksdm.models.cost import (
    Cost,
    step_flops,
    text_encoder_macs,
    unet_cost,
    unet_module_cost,
    vae_encoder_macs,
)
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.surgery.plans import Plan, empty
from bksdm.training.beginning import Beginning
from bksdm.training.distill import Distillation
from bksdm.training.estimate import (
    Disk,
    Pace,
    StepFlops,
    Work,
    checkpoint_copies,
    disk_of,
    grids_of,
    pace_measured,
)
from bksdm.training.memory import BatchShape, Memory, traced_memory
from bksdm.training.rehearsal import Rehearsal, timed_steps

GIB: Final = 2**30
FULL_BATCH: Final = 32  # images a device, the most of the published rates in `pace_notes`
PATIENCE: Final = 120.0  # seconds that a rehearsal may take


@dataclass(frozen=True)
class Networks:
    """One forward of each on one sample of the run.

    Attributes:
        teacher: its U-Net.
        student: its U-Net.
        flops: of a training step, an image.
    """

    teacher: Cost
    student: Cost
    flops: StepFlops


def networks_of(run: Planned, holds: Holds) -> Networks | None:
    """Costs at the run's resolution, for a step that takes what the shards hold."""
    if run.architecture is None or run.student is None or run.teacher is None:
        return None
    if run.resolution is None or run.speed is None:
        return None
    side = run.resolution // run.teacher.latent_factor
    tokens = run.architecture["text_encoder"]["max_position_embeddings"]
    teacher = unet_cost(run.architecture["unet"], side, tokens=tokens)
    student = unet_module_cost(run.student, side, tokens=tokens).total
    useful = step_flops(teacher.macs, student.macs)
    texts = (not holds.text) + bool(run.ancestor and run.ancestor.own_text)
    extra = texts * text_encoder_macs(run.architecture["text_encoder"])
    extra += 0 if holds.latents else vae_encoder_macs(run.architecture["vae"], run.resolution)
    extra += student.macs if run.speed.gradient_checkpointing else 0
    return Networks(teacher, student, StepFlops(useful, useful + 2 * extra))


def memory_of(run: Planned, holds: Holds) -> Memory | None:
    """Memory of a step at its peak."""
    teacher, plan, trainer, parts = run.teacher, run.plan, run.trainer, run.architecture
    if teacher is None or plan is None or trainer is None or parts is None or run.source is None:
        return None
    if run.resolution is None or run.speed is None:
        return None
    batch_size, ema_decay = run.batch_size, run.ema_decay
    if batch_size is None or ema_decay is None:
        return None
    tokens = int(parts["text_encoder"]["max_position_embeddings"])
    bare = weightless(run.source, parts)
    # What a compiler leaves out of memory is not known beforehand.
    speed = replace(run.speed, compile=None, attention="auto")
    batch = BatchShape(
        samples=batch_size,
        tokens=tokens,
        pixels=None if holds.latents else (3, run.resolution, run.resolution),
        moments=teacher.moments_shape(run.resolution) if holds.latents else None,
        text=(tokens, parts["unet"]["cross_attention_dim"]) if holds.text else None,
    )

    def hollow() -> Distillation:
        teacher = load_teacher(bare)
        begun = _hollow_beginning(run, teacher, plan)
        return distillation(run.config, teacher, plan, begun, speed=speed, data={})

    return traced_memory(
        hollow,
        batch=batch,
        precision=trainer.precision,
        ema_decay=ema_decay,
        cuda=run.on_gpu or run.lacks_gpu,
        processes=run.world,
    )


def _hollow_beginning(run: Planned, teacher: Teacher, plan: Plan) -> Beginning:
    if run.ancestor is None:
        return Beginning(unet=empty(teacher.unet.config, plan))
    return run.ancestor.hollow(teacher, plan)


def capacity_of(run: Planned) -> int | None:
    """Bytes of memory that the run's device has; None for a GPU that is not here."""
    if run.lacks_gpu:
        return None
    if run.device is not None:
        return run.device.memory_gib * GIB
    if run.on_gpu:
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def disk_left_by(run: Planned, networks: Networks) -> Disk | None:
    """What the run leaves on the disk."""
    if run.checkpoint is None or run.trainer is None or run.teacher is None:
        return None
    if run.grid_interval is None:
        return None
    samples, steps = run.config.samples, run.trainer.max_steps
    encoders = (run.teacher.vae, run.teacher.text_encoder)
    return disk_of(
        parameters=networks.student.parameters,
        encoder_parameters=sum(each.numel() for part in encoders for each in part.parameters()),
        copies=checkpoint_copies(
            max_steps=steps,
            best=run.checkpoint.best,
            keep_every_n_steps=run.checkpoint.keep_every_n_steps,
        ),
        grids=grids_of(max_steps=steps, every_n_steps=run.grid_interval),
        pictures=3 * len(samples.prompts),
        resolution=run.teacher.picture_size,
    )


def work_left(run: Planned, *, done: int) -> Work | None:
    """Samples of the remaining steps."""
    if run.trainer is None or run.global_batch is None:
        return None
    steps = max(run.trainer.max_steps - done, 0)
    return Work(steps * run.global_batch, run.world)


def why_not_here(run: Planned, networks: Networks, memory: Memory) -> str | None:
    """Why no rehearsal can be had on this machine, if so."""
    if run.on_gpu:
        return None
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if memory.total > free:
        return f"a step takes {memory.total / GIB:.1f} GiB, {free / GIB:.1f} GiB are free here"
    images = run.config.data.global_batch / run.world * (run.config.rehearsal + 1)
    seconds = images * networks.flops.computed / _rate_here()
    return f"it would take about {seconds / 60:.0f} min here" if seconds > PATIENCE else None


def _rate_here() -> float:
    """FLOP/s of the CPU in a matrix product."""
    side = 1024
    factor = torch.ones(side, side)
    factor @ factor
    begin = time.perf_counter()
    for _ in range(4):
        factor @ factor
    return 4 * 2 * side**3 / (time.perf_counter() - begin)


def rehearsed(run: Planned, teacher: Teacher, data: ShardDataModule, *, done: int) -> Pace:
    """Time a few steps on this machine's device, after one that warms up. Nothing is saved.

    Raises:
        InputError: the run's first steps would end with it.
    """
    assert run.plan is not None
    assert run.trainer is not None
    assert run.speed is not None
    steps = run.config.rehearsal + 1
    begun = beginning(run.config, teacher, run.plan)
    data_of = data.fingerprint
    module = distillation(run.config, teacher, run.plan, begun, speed=run.speed, data=data_of)
    module.to(torch.device("cuda" if run.on_gpu else "cpu"))
    module.prepare(module.device)
    rehearsal = Rehearsal(
        module,
        precision=run.trainer.precision,
        ema_decay=run.config.ema_decay,
        max_steps=run.trainer.max_steps,
        processes=run.world,
    )
    share = Share(
        batch=data.batch_size, rank=0, world=run.world, first_step=done, last_step=done + steps
    )
    batches = data.batches(share)
    micro_batches = data.accumulation(run.world)
    times = list(islice(timed_steps(rehearsal, batches, accumulation=micro_batches), steps))
    if len(times) < steps:
        raise InputError(f"the shards ended after {len(times)} steps of a rehearsal of {steps}")
    return pace_measured(times[1:], images=micro_batches * data.batch_size)


def pace_notes(run: Planned) -> list[str]:
    """What the paces do not count."""
    small = run.device is not None and run.batch_size is not None and run.batch_size < FULL_BATCH
    if run.world == 1 and not small:
        return []
    several = "one device's rate times their number; " if run.world > 1 else ""
    return [
        f"pace: {several}not counted are the time in which devices tell each other, and that a"
        " small batch fills a device less; MLPerf's Stable Diffusion 2 on H100 [published]: 136"
        " images/s a GPU on 8 at 32 images each, 124 on 64 at 16, 77 on 512 at 4"
    ]


def with_latents(run: Planned, networks: Networks, paces: Sequence[Pace], work: Work) -> str:
    """What a step over latents would make of the hours that pictures take."""
    latents = networks_of(run, Holds(latents=True))
    assert latents is not None
    now, then = networks.flops.computed, latents.flops.computed
    hours = ", ".join(
        f"{work.hours(pace) * then / now:,.3g} instead of {work.hours(pace):,.3g} hours"
        f" ({pace.basis})"
        for pace in paces
        if pace.basis.count("reference") == 0
    )
    return (
        f"with latents (bksdm encode), without the VAE: {then / 1e9:,.4g} instead of"
        f" {now / 1e9:,.4g} GFLOP an image; by that {hours}"
    )
