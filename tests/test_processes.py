import pytest

from bksdm.processes import Process, this_process

NAMES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_LOCALID",
)  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "process"),
    [
        ({}, Process()),
        (
            {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4},
            Process(5, 8, 1, 2),
        ),
        ({"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1}, Process(1, 2, 1, 1)),
        (
            {"SLURM_PROCID": 3, "SLURM_STEP_NUM_TASKS": 4, "SLURM_LOCALID": 1,
             "SLURM_STEP_NUM_NODES": 2},
            Process(3, 4, 1, 2),
        ),
        ({"SLURM_PROCID": 0, "SLURM_NTASKS": 4, "SLURM_LOCALID": 0}, Process()),
    ],
    ids=["alone", "torchrun", "another launcher", "srun", "a batch script before srun"],
)  # fmt: skip
def test_a_process_knows_its_place(
    environment: dict[str, int], process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    assert this_process() == process
    assert process.first == (process.rank == 0)
