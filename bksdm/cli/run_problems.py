"""What would stop a run, each by a check of its own."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from bksdm.cli.planned import Planned
from bksdm.cli.same_run import check_same_run
from bksdm.cli.shards_report import Split
from bksdm.data.limits import check_cache, check_settings
from bksdm.data.location import is_remote
from bksdm.data.order import Order, accumulation
from bksdm.data.selection import selection_of
from bksdm.data.store import ShardStore
from bksdm.diffusion import Diffusion
from bksdm.errors import InputError
from bksdm.models.source import checked_unet_config
from bksdm.processes import Process
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.estimate import Disk, existing
from bksdm.training.identity import check_identity
from bksdm.training.memory import Memory
from bksdm.training.run import Start

GB: Final = 1e9
GIB: Final = 2**30


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a run when its problems are looked for.

    Attributes:
        run: as planned.
        start: where it begins; None where no checkpoint can be read.
        splits: its shards, those that were found.
        memory: of a step.
        capacity: bytes of the device, of which `sharing` processes take their part.
        sharing: processes.
        disk: what it leaves.
    """

    run: Planned
    start: Start | None
    splits: dict[str, Split]
    memory: Memory | None
    capacity: int | None
    sharing: int
    disk: Disk | None


def batch_divides(known: Known) -> None:
    """The global batch is a multiple of what all processes take at once, and CUDA graphs take it
    all at once.
    """
    run = known.run
    if run.global_batch is not None and run.batch_size is not None:
        micro = accumulation(run.global_batch, batch=run.batch_size, world=run.world)
        if run.speed is not None:
            run.speed.check_accumulation(micro)


def validation_is_shared(known: Known) -> None:
    """Every process gets a validation sample."""
    index = known.splits["validation"].index if "validation" in known.splits else None
    wanted = known.run.config.data.validation_samples
    check_settings(validation_samples=wanted)
    samples = min(wanted, index.samples) if index else wanted
    if samples < known.run.world:
        raise InputError(
            f"{samples} validation samples for {known.run.world} processes; expected at"
            " least one each: raise data.validation_samples"
        )


def order_is_possible(known: Known) -> None:
    """The shards fill a global batch, and the cache holds those that are read in turn."""
    data, split = known.run.config.data, known.splits.get("training")
    selected = selection_of(data.get("selection"), mode=data.mode)
    if split is None or split.index is None or data.mode != "exact":
        return
    index, counts = split.index, list(split.index.counts)
    if selected is not None:
        index, rows = selected.part_of(index)
        counts = list(map(len, rows))
    order = Order(
        counts=counts,
        seed=known.run.config.seed,
        global_batch=data.global_batch,
        window=data.window,
        lanes=data.lanes,
        remainder=data.remainder,
    )
    check_cache(index, order, max_gb=data.cache.max_gb)


def scheduler_is_known(known: Known) -> None:
    """The teacher predicts what a step can compute."""
    if known.run.architecture is not None:
        Diffusion.from_scheduler_config(known.run.architecture["scheduler"])


def teacher_is_here(known: Known) -> None:
    """The weights can be had; on another machine nobody knows."""
    source = known.run.source
    if source is not None and known.run.device is None and source.weights == "pretrained":
        checked_unet_config(source)


def beginning_fits(known: Known) -> None:
    """What the student begins as has a shape for it, and is zero where it says."""
    run = known.run
    if run.ancestor is not None and run.architecture is not None and run.plan is not None:
        run.ancestor.student(run.architecture["unet"], run.plan)


def devices_are_here(known: Known) -> None:
    """As many as the settings name for a node."""
    trainer = known.run.trainer
    if trainer is not None and known.run.device is None:
        replace(trainer, num_nodes=None).to_start(Process())


def precision_is_possible(known: Known) -> None:
    """The device computes in bfloat16, where it is wanted."""
    device, trainer = known.run.device, known.run.trainer
    if device and trainer and device.peak(trainer.precision) is None:
        raise InputError(
            f"trainer.precision={trainer.precision}: {device.name} has no bfloat16; use"
            " trainer.precision=32-true"
        )


def same_configuration(known: Known) -> None:
    """A run of this name has the same settings."""
    if known.run.values is not None and known.run.folder is not None:
        check_same_run(known.run.folder, known.run.values)


def same_identity(known: Known) -> None:
    """Its checkpoint is of the same plan, teacher and data."""
    run, start = known.run, known.start
    if start is None or start.checkpoint is None or run.plan is None or run.source is None:
        return
    saved = read_checkpoint(start.checkpoint)["bksdm"]
    now: dict[str, Any] = saved | {"plan": run.plan.to_json(), "teacher": run.source.identity}
    indices = {split: each.index for split, each in known.splits.items() if each.index}
    if len(indices) == 2 and run.config.data.mode == "exact":
        now["data"] = saved["data"] | {split: each.record() for split, each in indices.items()}
        selected = selection_of(run.config.data.get("selection"), mode="exact")
        chosen = None if selected is None else selected.record
        now["data"]["order"] = saved["data"]["order"] | {"selection": chosen}
    check_identity(
        saved,
        now,
        checkpoint=start.checkpoint,
        accept_changed=run.config.data.accept_changed,
    )


def memory_suffices(known: Known) -> None:
    """A step fits into the device."""
    if known.memory is None or known.capacity is None:
        return
    needed = known.memory.total * known.sharing
    if needed > known.capacity:
        raise InputError(
            f"a step needs about {needed / GIB:.1f} GiB, more than the device's"
            f" {known.capacity / GIB:.1f} GiB; use a smaller data.batch_size (data.global_batch"
            " stays), or speed.gradient_checkpointing=true"
        )


def disk_suffices(known: Known) -> None:
    """What the run writes fits on the disk."""
    if known.disk is None or known.run.device is not None or known.run.folder is None:
        return
    folder = known.run.folder.path
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    _fits(known.disk.total - there, folder, what="the run", remedy="use another runs_dir=")


def cache_suffices(known: Known) -> None:
    """The cache of remote shards fits on its disk."""
    cache = known.run.cache
    if cache is None or known.run.device is not None:
        return
    sizes = [
        shard.size
        for each in known.splits.values()
        if each.index
        for shard in each.index.shards
        if is_remote(shard.location)
    ]
    folder = ShardStore(cache).folder
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    wanted = min(sum(sizes), int(cache.max_gb * GB)) - there
    _fits(
        wanted, folder, what="the cache of remote shards", remedy="use a smaller data.cache.max_gb"
    )


def _fits(needed: int, folder: Any, *, what: str, remedy: str) -> None:
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise InputError(
            f"{what} will write about {needed / GB:.1f} GB more into {folder}, whose disk has"
            f" {free / GB:.1f} GB free; free some, or {remedy}"
        )


CHECKS: Final[tuple[Callable[[Known], None], ...]] = (
    batch_divides,
    validation_is_shared,
    order_is_possible,
    scheduler_is_known,
    teacher_is_here,
    beginning_fits,
    devices_are_here,
    precision_is_possible,
    same_configuration,
    same_identity,
    memory_suffices,
    disk_suffices,
    cache_suffices,
)


def run_problems(known: Known) -> Iterator[str]:
    """All of them."""
    for check in CHECKS:
        try:
            check(known)
        except InputError as error:
            yield str(error)
