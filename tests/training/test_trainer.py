"""How many processes there are, and what the Trainer is told."""

from typing import Any

import pytest

from bksdm.errors import InputError
from bksdm.processes import Process
from bksdm.training.peers import StartedOutside
from bksdm.training.throughput import Fetching
from bksdm.training.trainer import TrainerSettings, build_trainer, placed

SRUN = Process(rank=9, world=16, local_rank=1, nodes=2)


def settings(**changes: Any) -> TrainerSettings:
    values: dict[str, Any] = {
        "max_steps": 10,
        "accelerator": "cpu",
        "precision": "32-true",
        "log_every_n_steps": 1,
        "validate_every_n_steps": 5,
    }
    return TrainerSettings(**values | changes)


@pytest.mark.parametrize(
    ("changes", "process", "count"),
    [
        ({}, Process(), 1),
        ({"devices": "auto"}, Process(), 1),
        ({"devices": 4}, Process(), 4),
        ({"devices": "4", "num_nodes": 1}, Process(), 4),
        ({}, SRUN, 1),
        ({"devices": "auto"}, SRUN, 1),
        ({"devices": 8, "num_nodes": 2}, SRUN, 1),
    ],
)
def test_processes_that_are_still_to_be_started(
    changes: dict[str, Any], process: Process, count: int
) -> None:
    assert settings(**changes).to_start(process) == count


@pytest.mark.parametrize(
    ("changes", "process", "words"),
    [
        ({"num_nodes": 2}, Process(), "several nodes need torchrun or srun"),
        ({"devices": 4}, SRUN, "devices=4, but 16 processes on 2 nodes were started"),
        ({"num_nodes": 3}, SRUN, "num_nodes=3, but 16 processes on 2 nodes were started"),
    ],
)
def test_other_processes_than_the_settings_say(
    changes: dict[str, Any], process: Process, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        settings(**changes).to_start(process)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 0},
        {"max_steps": "many"},
        {"devices": 0},
        {"devices": "all"},
        {"num_nodes": -1},
        {"precision": "16-mixed"},
        {"accelerator": "tpu"},
        {"accelerator": "gpu"},
        {"timeout_minutes": 0},
        {"peak_tflops": "fast"},
    ],
)
def test_bad_settings_are_told(changes: dict[str, Any]) -> None:
    [name] = changes
    with pytest.raises(InputError, match=f"trainer.{name}="):
        settings(**changes)


def test_processes_that_see_one_gpu_each_are_nodes_to_lightning() -> None:
    alone = placed(SRUN, visible=1)
    assert (alone.rank, alone.world, alone.local_rank, alone.nodes) == (9, 16, 0, 16)
    assert StartedOutside(alone).node_rank() == 9
    assert placed(SRUN, visible=8) is SRUN
    assert placed(SRUN, visible=None) is SRUN
    assert StartedOutside(SRUN).node_rank() == 1


def test_lightning_heeds_no_signal_and_waits_for_no_device() -> None:
    """Both are Lightning's own; a version that renames them must be noticed."""
    trainer = build_trainer(
        settings(), Process(), fetching=Fetching(), background_saves=False, logger=False
    )
    connector, loop = trainer._signal_connector, trainer.fit_loop.epoch_loop
    for owner, name in (
        (connector, "register_signal_handlers"),
        (loop, "_broadcast_sigterm_tensor"),
    ):
        assert hasattr(type(owner), name)
        assert getattr(owner, name).__name__ == "_nothing"
