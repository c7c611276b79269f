"""Which process this is, of how many: started outside, by torchrun or srun."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One of `world` processes that do the same job.

    Attributes:
        rank: 0, 1, ... over all nodes.
        world: number of processes.
        local_rank: 0, 1, ... on this node, which is also the GPU that it should take.
    """

    rank: int
    world: int
    local_rank: int

    @property
    def first(self) -> bool:
        """True for the process that prints and writes for all."""
        return self.rank == 0


def this_process() -> Process:
    """What torchrun or srun said in the environment; alone without them."""
    # Not SLURM_NTASKS: a batch script has that, too, before any srun.
    for names in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ):
        if all(name in os.environ for name in names):
            return Process(*(int(os.environ[name]) for name in names))
    return Process(rank=0, world=1, local_rank=0)
