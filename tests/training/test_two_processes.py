"""A run of two processes is the same as a run of one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bksdm.training.checkpoint import load_student
from bksdm.training.folder import RunFolder
from tests.training.metrics import assert_same_losses
from tests.training.processes import start, torchrun

Cli = Callable[..., int]


def assert_close(first: Path, second: Path) -> None:
    one, other = (load_student(RunFolder(path).checkpoint).state_dict() for path in (first, second))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_are_one_and_either_goes_on_for_the_other(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, strategy: str
) -> None:
    """From the start on two; the second half on two; the second half on one. With a validation
    and a grid between the steps, which see the average.
    """
    one = [*tiny_run, "optimizer.lr=1e-3", "checkpoint.keep_every_n_steps=2"]
    one += ["samples.every_n_steps=2", "samples.sampling.steps=1"]
    one += ["samples.prompts=[a red circle,a cross,a square]", "trainer.validate_every_n_steps=1"]
    two = [*one, "data.batch_size=2", f"trainer.strategy={strategy}"]
    runs = tmp_path / "runs"
    assert run_cli(*one, "name=whole") == 0
    torchrun([*two, "name=two"], tmp_path)
    assert_same_losses(runs / "whole", runs / "two", rel=3e-5)
    assert (runs / "two" / "samples" / "step_000004.png").exists()
    for before, after in (("whole", "two-on"), ("two", "one-on")):
        checkpoints = Path(shutil.copytree(runs / before, runs / after)) / "checkpoints"
        (checkpoints / "step_2.ckpt").replace(checkpoints / "last.ckpt")
    assert run_cli(*one, "name=one-on") == 0
    assert_same_losses(runs / "whole", runs / "one-on", rel=3e-5)
    if strategy == "ddp":  # for the other it is no other case
        torchrun([*two, "name=two-on", "data.batch_size=4"], tmp_path)
        assert_same_losses(runs / "whole", runs / "two-on", rel=3e-5)


def test_processes_that_nobody_started_are_started(
    tiny_run: list[str], finished: Path, tmp_path: Path
) -> None:
    two = ["name=two", "trainer.devices=2", "data.batch_size=2"]
    output, _ = start([*tiny_run, *two], tmp_path).communicate(timeout=120)
    assert "processes x batch_size x accumulation: 2 x 2 x 2" in output, output
    assert_close(finished, tmp_path / "runs" / "two")


def test_other_nodes_are_not(
    run_cli: Cli, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, "name=two", "trainer.num_nodes=2") == 2
    assert "several nodes need torchrun or srun" in capsys.readouterr().err
