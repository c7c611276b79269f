"""Processes that agree: two real ones, over gloo, through everything in turn."""

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bksdm.errors import InputError, LostProcessError
from bksdm.processes import Process
from bksdm.training.peers import Peers, joined


def told(work: Callable[[], Any]) -> Any:
    """What it returns, or what it raises in words."""
    try:
        return work()
    except (InputError, LostProcessError) as error:
        return f"{type(error).__name__}: {error}"


def refuses() -> None:
    raise InputError("name=x: taken; choose another")


def everything(peers: Peers) -> dict[str, Any]:
    rank = peers.process.rank

    def refuses_here() -> None:
        if rank == 1:
            refuses()

    found = {
        "any": peers.any(rank == 1, False),
        "gathered": peers.gathered(rank * 10),
        "decided": peers.decided(lambda: f"seen by {rank}"),
        "refused by the first": told(lambda: peers.decided(refuses)),
        "each": peers.each(lambda: rank),
        "refused by all": told(lambda: peers.each(refuses)),
        "refused by one": told(lambda: peers.each(refuses_here)),
    }
    if rank == 0:  # the other one has left by now
        found["alone"] = told(lambda: peers.any(True))
    return found


def wrap_in_a_cycle() -> None:
    """As the Trainer does."""
    wrapped = DistributedDataParallel(nn.Linear(1, 1))
    wrapped.__dict__["trainer"] = wrapped


def gloo_threads() -> int:
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


def one(rank: int, ports: list[int], answers: Any) -> None:
    found: dict[str, Any] = {}

    def end(port: int, *, refused: bool) -> None:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with joined(Process(rank, 2, rank), gpu=False, minutes=1) as peers:
            wrap_in_a_cycle()
            if refused:
                peers.decided(refuses)
            found.update(everything(peers), threads=gloo_threads())

    found["end"] = told(lambda: end(ports[0], refused=True))
    found["threads after a refusal"] = gloo_threads()
    end(ports[1], refused=False)
    found["threads after all"] = gloo_threads()
    answers.put((rank, found))


def free_ports(count: int) -> list[int]:
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[Any, Any]]:
    """What each of two processes has seen."""
    ports = free_ports(2)
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=one, args=(rank, ports, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=200) for _ in processes)
    for process in processes:
        process.join(100)
    return {name: (value, found[1].get(name)) for name, value in found[0].items()}


def test_a_flag_of_one_is_seen_by_all(answers: dict[str, Any]) -> None:
    assert answers["any"] == ([True, False], [True, False])
    assert answers["gathered"] == ([0, 10], [0, 10])


def test_the_first_one_decides(answers: dict[str, Any]) -> None:
    assert answers["decided"] == ("seen by 0", "seen by 0")
    assert answers["each"] == (0, 1)


def test_a_refusal_ends_all_and_is_told_once(answers: dict[str, Any]) -> None:
    here = "InputError: name=x: taken; choose another"
    elsewhere = "ToldElsewhereError: name=x: taken; choose another"
    assert answers["refused by the first"] == (here, elsewhere)
    assert answers["refused by all"] == (here, elsewhere)
    assert answers["refused by one"] == (elsewhere, here)


def test_one_that_has_gone_is_noticed(answers: dict[str, Any]) -> None:
    alone, _ = answers["alone"]
    assert alone.startswith("LostProcessError: another process of the run has gone")


def test_alone_nothing_is_asked() -> None:
    with joined(Process(), gpu=False, minutes=1) as peers:
        assert peers.any(True, False) == [True, False]
        assert peers.gathered(3) == [3]
        assert peers.each(lambda: 4) == 4
        assert told(lambda: peers.decided(refuses)) == "InputError: name=x: taken; choose another"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted there")
def test_no_thread_of_the_group_outlives_it(answers: dict[str, Any]) -> None:
    """One that does sometimes aborts the process when the interpreter ends."""
    assert min(answers["threads"]) > 0
    assert answers["threads after a refusal"] == (0, 0)
    assert answers["threads after all"] == (0, 0)
