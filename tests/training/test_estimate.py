from pathlib import Path

import pytest

from bksdm.models.cost import step_flops
from bksdm.models.devices import named
from bksdm.training.estimate import (
    Pace,
    StepFlops,
    Work,
    checkpoint_copies,
    disk_of,
    existing,
    grids_of,
    pace_measured,
    paces_of,
)
from bksdm.training.rehearsal import StepTime

BASE = step_flops(401_600_000_000, 261_500_000_000)


def test_the_reference_takes_its_300_hours() -> None:
    """BK-SDM-Base: 50,000 steps of 256 on one A100, 11.9 images/s with VAE and checkpointing."""
    device = named("a100")
    assert device is not None
    paces = paces_of(device, precision="bf16-mixed", flops=StepFlops(BASE, int(1.6 * BASE)))
    work = Work(images=50_000 * 256, devices=1)
    assert paces[2].images_per_second == pytest.approx(11.9, abs=0.1)
    assert work.hours(paces[2]) == pytest.approx(300, abs=2)
    assert paces[0].images_per_second == pytest.approx(312e12 / BASE / 1.6, rel=1e-3)
    assert paces[1].images_per_second == pytest.approx(0.35 * paces[0].images_per_second)


def test_devices_share_the_work() -> None:
    work = Work(images=3600 * 80, devices=8)
    assert work.hours(Pace("", 10)) == 1
    assert work.device_hours(Pace("", 10)) == 8


def test_no_pace_for_a_precision_that_the_device_has_not() -> None:
    device = named("t4")
    assert device is not None
    assert paces_of(device, precision="bf16-mixed", flops=StepFlops(BASE, BASE)) == []


def test_the_median_step_counts() -> None:
    pace = pace_measured([StepTime(1, 0.5), StepTime(2, 0.5), StepTime(7, 0)], images=10)
    assert pace.images_per_second == 5
    assert pace.data_wait == 0.1


def test_bytes_on_disk() -> None:
    copies = checkpoint_copies(max_steps=100, best=2, keep_every_n_steps=30)
    assert copies == 3 + 2 + 3
    disk = disk_of(
        parameters=10, encoder_parameters=5, copies=copies, grids=4, pictures=3, resolution=8
    )
    assert disk.checkpoints == 8 * 160
    assert disk.student == 60
    assert disk.grids == 2 * 4 * 3 * 3 * 64
    assert disk.total == 1280 + 60 + disk.grids
    assert grids_of(max_steps=10, every_n_steps=4) == 3
    assert grids_of(max_steps=10, every_n_steps=0) == 0


def test_a_folder_that_is_not_there_yet_lies_on_its_parents_disk(tmp_path: Path) -> None:
    assert existing(tmp_path / "runs" / "a") == tmp_path
