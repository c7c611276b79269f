"""Which process this is, of how many: started outside, by torchrun or srun."""

import os
from dataclasses import dataclass

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# Not SLURM_NTASKS: a batch script has that, too, before any srun.
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


@dataclass(frozen=True)
class Process:
    """One of `world` processes that do the same job.

    Attributes:
        rank: 0, 1, ... over all nodes.
        world: number of processes.
        local_rank: 0, 1, ... on this node.
        nodes: number of nodes.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    nodes: int = 1

    @property
    def first(self) -> bool:
        """True for the process that prints and writes for all."""
        return self.rank == 0


def this_process() -> Process:
    """What torchrun or srun said in the environment; alone without them."""
    environment = os.environ
    if all(name in environment for name in _TORCHRUN):
        rank, world, local = (int(environment[name]) for name in _TORCHRUN)
        on_node = int(environment.get("LOCAL_WORLD_SIZE", world))
        return Process(rank, world, local, max(world // on_node, 1))
    if all(name in environment for name in _SRUN):
        nodes = int(environment.get("SLURM_STEP_NUM_NODES", 1))
        rank, world, local = (int(environment[name]) for name in _SRUN)
        return Process(rank, world, local, nodes)
    return Process()
