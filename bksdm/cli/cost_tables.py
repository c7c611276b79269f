"""What a run will cost, in tables."""

from collections.abc import Sequence
from typing import Final

from bksdm.cli.planned import Planned
from bksdm.cli.run_cost import Networks
from bksdm.data.order import accumulation
from bksdm.evaluation.report import table
from bksdm.training.estimate import Disk, Pace, Work
from bksdm.training.memory import Memory

GIB: Final = 2**30


def network_table(networks: Networks) -> str:
    """Parameters and MACs."""
    rows = [
        [name, f"{cost.parameters:,}", f"{cost.macs / 1e9:,.4g}"]
        for name, cost in (("teacher", networks.teacher), ("student", networks.student))
    ]
    flops = networks.flops
    step = f"a step: {flops.useful / 1e9:,.4g} GFLOP an image"
    if flops.computed > flops.useful:
        step += f", {flops.computed / 1e9:,.4g} with encoders and recomputation"
    return table(rows, header=["U-Net", "parameters", "GMACs a forward"]) + f"\n{step}"


def memory_table(memory: Memory, *, capacity: int | None) -> str:
    """By part."""
    parts = vars(memory) | {"all, at the peak": memory.total}
    if capacity is not None:
        parts["the device has"] = capacity
    rows = [[name, f"{size / GIB:.3f}"] for name, size in parts.items()]
    return table(rows, header=["memory of a step", "GiB"])


def batch_line(run: Planned) -> str:
    """Global batch in its factors; empty if there are none."""
    if run.global_batch is None or run.batch_size is None:
        return ""
    micro = accumulation(run.global_batch, batch=run.batch_size, world=run.world)
    return (
        f"global batch {run.global_batch}: processes x batch_size x accumulation ="
        f" {run.world} x {run.batch_size} x {micro}"
    )


def pace_table(paces: Sequence[Pace], work: Work, *, price: float | None) -> str:
    """Time, and money if a price is known."""
    header = ["pace", "images/s a device", "images/s", "hours", "device-hours", "data wait"]
    rows = []
    for pace in paces:
        wait = "-" if pace.data_wait is None else f"{100 * pace.data_wait:.0f} %"
        rows.append(
            [
                pace.basis,
                f"{pace.images_per_second:,.4g}",
                f"{pace.images_per_second * work.devices:,.4g}",
                f"{work.hours(pace):,.3g}",
                f"{work.device_hours(pace):,.3g}",
                wait,
            ]
        )
        if price is not None:
            rows[-1].append(f"{work.device_hours(pace) * price:,.2f}")
    return table(rows, header=[*header, *["cost"] * (price is not None)])


def disk_table(disk: Disk, *, free: int) -> str:
    """By part."""
    rows = [[name, f"{size / 1e9:.2f}"] for name, size in vars(disk).items()]
    rows += [["all", f"{disk.total / 1e9:.2f}"], ["free", f"{free / 1e9:.2f}"]]
    return table(rows, header=["disk", "GB"])
