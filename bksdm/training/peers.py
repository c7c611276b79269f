"""The processes of a run: how they find each other, and how they agree.

They agree on the CPU (gloo), over a group of their own: no GPU is waited for, and a
process that has died is noticed at once instead of after NCCL's timeout.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from bksdm.errors import InputError, LostProcessError, ToldElsewhereError
from bksdm.processes import Process

T = TypeVar("T")

# What gloo and NCCL say when the other end is no more, or does not answer in time.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket closed",
    "remote process exited",
    "communicator was aborted",
    "Timed out waiting",
)


@dataclass
class Peers:
    """This process among the others. All of them must call a method together.

    Attributes:
        process: which one it is.
        group: over which they agree; None for one alone, and for all once they have parted.
    """

    process: Process
    group: Any = None

    def any(self, *flags: bool) -> list[bool]:
        """Which flags are set in at least one process."""
        if self.group is None:
            return list(flags)
        tensor = torch.tensor(flags, dtype=torch.int32)
        with lost_told():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.group)
        return [bool(value) for value in tensor]

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.process.world
        with lost_told():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def each(self, make: Callable[[], T]) -> T:
        """What `make` returns in this process. A refusal in any ends all, and is told once.

        Raises:
            InputError: `make` refuses here; in the others, and where one has said the same, a
                `ToldElsewhereError`.
        """
        if self.group is None:
            return make()
        made: list[T] = []
        refusal = None
        try:
            made.append(make())
        except InputError as error:
            refusal = str(error)
        refusals = self.gathered(refusal)
        if not any(refusals):
            return made[0]
        if refusal is not None and refusals.index(refusal) == self.process.rank:
            raise InputError(refusal)
        raise ToldElsewhereError(next(each for each in refusals if each))

    def decided(self, decide: Callable[[], T]) -> T:
        """What the first process finds, for all of them: only it looks at the disk.

        Raises:
            InputError: its own; in the others a `ToldElsewhereError`.
        """
        if self.group is None:
            return decide()
        found: list[Any] = [None, None]
        error: InputError | None = None
        if self.process.first:
            try:
                found[0] = decide()
            except InputError as refused:
                error, found[1] = refused, str(refused)
        with lost_told():
            dist.broadcast_object_list(found, src=0, group=self.group)
        if error is not None:
            raise error
        if found[1] is not None:
            raise ToldElsewhereError(found[1])
        return found[0]  # type: ignore[no-any-return]


@contextmanager
def joined(process: Process, *, gpu: bool, minutes: float) -> Iterator[Peers]:
    """Join the others, who were started by torchrun or srun; alone, nothing happens.

    Args:
        process: which one this is.
        gpu: gradients go through NCCL.
        minutes: how long one waits for another: the first one's work alone must fit.

    Raises:
        LostProcessError: not all of them came.
    """
    if process.world == 1:
        yield Peers(process)
        return
    timeout = timedelta(minutes=minutes)
    try:
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            init_method=_meeting_point(),
            rank=process.rank,
            world_size=process.world,
            timeout=timeout,
        )
    except dist.DistError as error:
        raise LostProcessError(
            f"process {process.rank} of {process.world} found not all others within"
            f" {minutes:g} minutes: {' '.join(str(error).split())}"
        ) from error
    peers = Peers(process, dist.new_group(backend="gloo", timeout=timeout))
    try:
        yield peers
    except LostProcessError:
        raise  # NCCL would wait for the one that is lost
    except BaseException:
        _part(peers)
        raise
    _part(peers)


def _part(peers: Peers) -> None:
    """Leave the others, and end the threads in which gloo works.

    Such a thread takes Python's lock to give a tensor back, after the work is done. Where it comes
    to that while the interpreter ends, Python ends the thread inside C++ code, which aborts the
    process. Threads end with the last reference to their group: the one over which processes agree
    to the last has no other holders, as the gradients' has (the Trainer's cycles; caches of torch).
    """
    gc.collect()
    peers.group = None
    dist.destroy_process_group()


@contextmanager
def lost_told() -> Iterator[None]:
    """What a connection that has broken means.

    Raises:
        LostProcessError: another process of the run has gone.
    """
    try:
        yield
    except RuntimeError as error:
        raise_if_lost(error)
        raise


def raise_if_lost(error: BaseException) -> None:
    """Do nothing about any other error.

    Raises:
        LostProcessError: this one means that another process has gone.
    """
    if not isinstance(error, RuntimeError) or isinstance(error, LostProcessError):
        return
    if any(sign in str(error) for sign in _LOST):
        raise LostProcessError(
            "another process of the run has gone, or does not answer: killed, out of memory, or its"
            " node failed; its own output says more. What is saved stays: the same command goes on"
        ) from error


def _meeting_point() -> str:
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        return "env://"
    slurm = SLURMEnvironment(auto_requeue=False)
    return f"tcp://{slurm.main_address}:{slurm.main_port}"


class StartedOutside(ClusterEnvironment):
    """What Lightning is told of the processes: they are there, and have met already."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning starts none."""
        return True

    @property
    def main_address(self) -> str:
        """Not asked for, once a process group is there."""
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """Neither."""
        return int(os.environ.get("MASTER_PORT", 0))

    @staticmethod
    def detect() -> bool:
        """Never chosen by Lightning itself."""
        return False

    def world_size(self) -> int:
        """Of all nodes."""
        return self.process.world

    def set_world_size(self, size: int) -> None:
        """It is what it is."""

    def global_rank(self) -> int:
        """Of all nodes."""
        return self.process.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    def local_rank(self) -> int:
        """On this node."""
        return self.process.local_rank

    def node_rank(self) -> int:
        """Of the node."""
        return self.process.rank // max(self.process.world // self.process.nodes, 1)
