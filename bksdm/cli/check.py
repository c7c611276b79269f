"""bksdm check."""

import shutil
import sys
import time
from dataclasses import asdict
from functools import partial

import torch
from omegaconf import DictConfig

from bksdm.cli import cost_tables, run_cost
from bksdm.cli.config import built, number, optional_number, switch
from bksdm.cli.expert import settled
from bksdm.cli.holds import Holds, held_by
from bksdm.cli.hub import check_hub
from bksdm.cli.planned import Complaints, Planned, planned
from bksdm.cli.resume import resumed
from bksdm.cli.run_problems import Known, run_problems
from bksdm.cli.shards_report import (
    DEPTHS,
    SPLITS,
    Split,
    locations_of,
    look,
    none_here,
    shard_notes,
    shard_problems,
)
from bksdm.cli.told import Part, print_json, print_text
from bksdm.data.datamodule import ShardDataModule
from bksdm.data.limits import check_settings
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.errors import InputError
from bksdm.models.source import TeacherSource, picture_size
from bksdm.models.teacher import load_teacher, load_tokenizer
from bksdm.training.estimate import Pace, existing, paces_of
from bksdm.training.memory import Memory
from bksdm.training.run import Start, start_of


def run(config: DictConfig) -> int:
    """Print what a run will cost and everything that would stop it; exit code 2 if something
    would. Trains nothing.
    """
    begin = time.monotonic()
    config = settled(resumed(config))
    if config.format not in ("text", "json"):
        raise InputError(f"format={config.format}: expected text or json")
    if config.shards not in DEPTHS:
        raise InputError(f"shards={config.shards}: expected one of {', '.join(DEPTHS)}")
    number(config, "rehearsal", least=0)
    complaints = Complaints()
    splits = _splits(config, complaints, alone=switch(config, "only_shards"))
    limit = config.data.max_bad_fraction
    if complaints.refuses(partial(check_settings, max_bad_fraction=limit)):
        limit = 1.0
    complaints.add(shard_problems(splits, limit=limit))
    complaints.notes += shard_notes(splits)
    parts: list[Part] = []
    if not config.only_shards:
        complaints.attempt(partial(check_hub, config))
        parts = _run_parts(planned(config, complaints), splits, complaints)
    seconds = time.monotonic() - begin
    if config.format == "json":
        print_json(splits, parts, complaints, seconds)
    else:
        print_text(splits, parts, complaints, seconds)
    for problem in complaints.problems:
        print(f"bksdm check: {problem}", file=sys.stderr)
    return 2 if complaints.problems else 0


def _splits(config: DictConfig, complaints: Complaints, *, alone: bool) -> dict[str, Split]:
    """The splits that are there, looked into."""
    workers = optional_number(config, "workers", least=1)
    resolution = optional_number(config, "data.resolution", least=1)
    source = complaints.attempt(lambda: built(config.teacher, TeacherSource))
    cache = complaints.attempt(lambda: built(config.data.cache, CacheSettings))
    if source is None or cache is None:
        return {}
    store = ShardStore(cache)
    read = None  # samples are read as the teacher reads them
    if config.shards == "full":
        read = complaints.attempt(lambda: (load_tokenizer(source), picture_size(source)))
    found = {}
    for split, name in SPLITS.items():
        if alone and split == "validation" and not config.data.get(name):
            continue
        # On another machine they may be there.
        planning = config.device is not None and config.shards == "none"
        told = Complaints() if planning and none_here(config, split) else complaints
        ask = config.shards != "none"
        locations = told.attempt(partial(locations_of, config, split, store, ask=ask))
        if told is not complaints and told.problems:
            complaints.notes.append(f"{split}: no shards on this machine")
        if locations is None or (config.shards == "full" and read is None):
            continue
        looked = complaints.attempt(
            partial(
                look,
                split,
                locations,
                read[0] if read else None,
                store=store,
                depth=config.shards,
                resolution=resolution or (read[1] if read else 0),
                workers=workers,
                quiet=config.format == "json",
            )
        )
        if looked is not None:
            found[split] = looked
    return found


def _run_parts(run: Planned, splits: dict[str, Split], complaints: Complaints) -> list[Part]:
    """Costs of a run; its problems go to the complaints."""
    start = complaints.attempt(
        lambda: start_of(run.folder, put_aside=False) if run.folder else Start()
    )
    holds = complaints.attempt(lambda: held_by(run.config, splits)) or Holds()
    networks = run_cost.networks_of(run, holds)
    memory = complaints.attempt(lambda: run_cost.memory_of(run, holds))
    disk = run_cost.disk_left_by(run, networks) if networks else None
    capacity = run_cost.capacity_of(run)
    sharing = 1 if run.on_gpu else run.on_node
    complaints.add(
        run_problems(
            Known(
                run=run,
                start=start,
                splits=splits,
                memory=memory,
                capacity=capacity,
                sharing=sharing,
                disk=disk,
            )
        )
    )
    parts = [Part("step", str(holds), asdict(holds))]
    if networks:
        parts.append(Part("networks", cost_tables.network_table(networks), asdict(networks)))
    if memory:
        values = asdict(memory) | {"total": memory.total, "device": capacity}
        parts.append(Part("memory", cost_tables.memory_table(memory, capacity=capacity), values))
        if capacity and 0.9 * capacity < memory.total * sharing <= capacity:
            complaints.notes.append("memory: less than a tenth of the device's is left")
    if run.trainer and run.trainer.strategy == "fsdp2" and run.world > 1:
        complaints.notes.append("memory: as of ddp; trainer.strategy=fsdp2 takes less")
    line = complaints.attempt(lambda: cost_tables.batch_line(run))
    if line:
        parts.append(Part("batch", line, line))
    if networks and memory:
        done = start.steps if start else 0
        parts += _time_part(run, networks, memory, complaints, holds=holds, done=done)
    if disk and run.folder:
        free = shutil.disk_usage(existing(run.folder.path)).free
        values = asdict(disk) | {"total": disk.total, "free": free}
        parts.append(Part("disk", cost_tables.disk_table(disk, free=free), values))
    return parts


def _time_part(
    run: Planned,
    networks: run_cost.Networks,
    memory: Memory,
    complaints: Complaints,
    *,
    holds: Holds,
    done: int,
) -> list[Part]:
    work = run_cost.work_left(run, done=done)
    paces = _paces(run, networks, memory, complaints, done=done) if work else []
    if not work or not paces:
        return []
    price = run.config.price
    values = [
        asdict(pace)
        | {"hours": work.hours(pace), "device_hours": work.device_hours(pace)}
        | ({} if price is None else {"cost": work.device_hours(pace) * price})
        for pace in paces
    ]
    complaints.notes += run_cost.pace_notes(run)
    parts = [Part("paces", cost_tables.pace_table(paces, work, price=price), values)]
    if not holds.latents:
        line = run_cost.with_latents(run, networks, paces, work)
        parts.append(Part("with_latents", line, line))
    return parts


def _paces(
    run: Planned,
    networks: run_cost.Networks,
    memory: Memory,
    complaints: Complaints,
    *,
    done: int,
) -> list[Pace]:
    """Of the named device, from its peak; of this machine, from a rehearsal."""
    assert run.trainer is not None
    assert run.source is not None
    source = run.source
    if run.device is not None:
        return paces_of(run.device, precision=run.trainer.precision, flops=networks.flops)
    if not run.config.rehearsal:
        return []
    if complaints.problems:
        complaints.notes.append("no rehearsal: there are problems")
        return []
    reason = run_cost.why_not_here(run, networks, memory)
    if reason:
        complaints.notes.append(f"no rehearsal: {reason}; name a device=, or take rehearsal=0")
        return []
    teacher = complaints.attempt(lambda: load_teacher(source))
    if teacher is None:
        return []
    data = complaints.attempt(
        lambda: built(
            run.config.data,
            ShardDataModule,
            seed=run.config.seed,
            teacher=teacher,
            resolution=run.resolution,
        )
    )
    if data is None:
        return []
    pace = complaints.attempt(lambda: run_cost.rehearsed(run, teacher, data, done=done))
    if run.on_gpu:
        held = torch.cuda.max_memory_allocated() / run_cost.GIB
        complaints.notes.append(
            f"memory: the rehearsal held {held:.3f} GiB of the GPU's at its peak"
        )
    return [pace] if pace else []
