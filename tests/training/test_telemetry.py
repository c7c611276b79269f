"""What a run tells of itself, and that it stops at a loss that is no number."""

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bksdm.processes import Process
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.distill import TERMS
from bksdm.training.folder import RunFolder
from bksdm.training.peers import Peers
from bksdm.training.step_losses import StepLosses
from bksdm.training.telemetry import Utilisation
from bksdm.training.throughput import FETCH, Fetching, Throughput
from tests.training.processes import torchrun

Cli = Callable[..., int]
ALONE = Peers(Process())


def test_losses_are_means_over_the_micro_batches() -> None:
    losses = StepLosses(TERMS)
    for value in (1.0, 3.0):
        losses.add(torch.tensor([value, 0.0, 0.0, 2 * value]))
    losses.finish(step=0, gradient_norm=torch.tensor(5.0))
    found = losses.read(ALONE)
    assert found["task"] == 2
    assert found["loss"] == 4
    assert found["gradient_norm"] == 5
    assert losses.non_finite(ALONE) is None


def test_the_first_step_that_is_no_number_is_remembered() -> None:
    losses = StepLosses(TERMS)
    for step, value in enumerate([1.0, float("inf"), float("nan"), 1.0]):
        losses.add(torch.tensor([1.0, 1.0, 1.0, value]))
        losses.finish(step=step, gradient_norm=torch.tensor(1.0))
    found = losses.non_finite(ALONE)
    assert found is not None
    assert found.step == 1
    assert found.values[0]["loss"] == float("inf")


def test_an_infinite_gradient_counts_as_well() -> None:
    losses = StepLosses(TERMS)
    losses.add(torch.ones(4))
    losses.finish(step=3, gradient_norm=torch.tensor(float("inf")))
    found = losses.non_finite(ALONE)
    assert found is not None
    assert found.step == 3


def test_rates_count_whole_steps_and_the_waiting() -> None:
    fetching = Fetching()
    throughput = Throughput(fetching, global_batch=8)
    for step in range(3):  # the first one is warm-up
        for _ in range(2):  # micro-batches
            fetching.start(FETCH)
            time.sleep(0.02)
            fetching.stop(FETCH)
            fetching.start("something else")
            if _ == 0:
                throughput.begin()
            time.sleep(0.01)
        throughput.finish()
        time.sleep(0.05)  # a validation
        assert (throughput.read() is None) == (step == 0)
    throughput._steps, throughput._busy, throughput._waited = 2, 0.02, fetching.seconds - 0.08
    rate = throughput.read()
    assert rate is not None
    assert rate.images_per_second == pytest.approx(2 * 8 / 0.1)
    assert rate.data_wait == pytest.approx(0.8)


def test_utilisation_is_of_one_device() -> None:
    known = Utilisation(flops=2 * 10**12, peak_tflops=100).of(40, devices=8)
    assert known == {"tflops_per_device": pytest.approx(10), "mfu": pytest.approx(0.1)}
    assert "mfu" not in Utilisation(flops=10, peak_tflops=None).of(40, devices=8)


def rows(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics.open(newline="") as file:
        return [
            {name: value for name, value in row.items() if value} for row in csv.DictReader(file)
        ]


def test_a_run_logs_losses_rates_and_memory(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path
) -> None:
    assert run_cli(*tiny_run, "name=told", "trainer.peak_tflops=0.001") == 0
    logged = [row for row in rows(RunFolder(tmp_path / "runs/told")) if "train/loss" in row]
    assert [row["step"] for row in logged] == ["0", "1", "2", "3"]
    assert "speed/images_per_second" not in logged[0]  # the first step compiles, and warms up
    last = logged[-1]
    for name in ("images_per_second", "tflops_per_device", "mfu", "memory_gib"):
        assert float(last[f"speed/{name}"]) > 0
    assert 0 <= float(last["speed/data_wait"]) < 1
    assert float(last["speed/hours_left"]) == 0
    assert float(last["train/lr"]) == 5e-5
    parts = [float(last[f"train/{name}"]) for name in ("task", "output_kd", "feature_kd")]
    assert float(last["train/loss"]) == pytest.approx(sum(parts), rel=1e-5)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_loss_that_is_no_number_stops_the_run_and_can_be_reproduced(
    run_cli: Cli,
    tiny_run: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    processes: int,
) -> None:
    # A rate like this makes the weights, and so the next losses, infinite at once.
    own = ["name=huge", "optimizer.lr=1e30", "trainer.log_every_n_steps=3", "data.batch_size=4"]
    if processes == 1:
        assert run_cli(*tiny_run, *own) == 2
        line = capsys.readouterr().err
    else:
        line = torchrun([*tiny_run, *own], tmp_path, code=1)
        assert line.count("is not finite") == 1  # all end; one says it
    assert "a loss or gradient of step 1 is not finite" in line
    folder = RunFolder(tmp_path / "runs" / "huge")
    told = json.loads(folder.non_finite.read_text())
    assert told["step"] == 1
    assert told["seed"] == 1234
    assert len(told["samples"]) == told["global_batch"] == 8
    assert all(sample.startswith("train-0000") for sample in told["samples"])
    assert len(told["losses_by_process"]) == processes
    saved = read_checkpoint(folder.checkpoint)
    assert saved["global_step"] == 1  # before it, and nothing since
