"""Processes that agree: real ones, over gloo."""

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch.multiprocessing as mp

from bksdm.errors import InputError, LostProcessError, ToldElsewhereError
from bksdm.processes import Process
from bksdm.training.peers import Peers, joined


def together(work: Callable[[Peers], Any], *, world: int = 2) -> list[Any]:
    """What `work` returns, or raises, in each of several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=_one, args=(work, rank, world, port, answers))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=100) for _ in range(world))
    for process in processes:
        process.join(100)
    return [found[rank] for rank in range(world)]


def _one(work: Callable[[Peers], Any], rank: int, world: int, port: int, answers: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with joined(Process(rank, world, rank), gpu=False, minutes=1) as peers:
            answers.put((rank, work(peers)))
    except (InputError, LostProcessError) as error:
        answers.put((rank, f"{type(error).__name__}: {error}"))


def flags(peers: Peers) -> Any:
    first = peers.process.first
    return peers.any(not first, False), peers.gathered(peers.process.rank * 10)


def decides(peers: Peers) -> Any:
    return peers.decided(lambda: f"seen by {peers.process.rank}")


def refuses(peers: Peers) -> Any:
    def look() -> None:
        raise InputError("name=x: taken; choose another")

    return peers.decided(look)


def goes(peers: Peers) -> Any:
    if not peers.process.first:
        return "gone"  # and leaves the group, while the other still asks
    return peers.any(True)


def test_a_flag_of_one_is_seen_by_all() -> None:
    assert together(flags) == [([True, False], [0, 10])] * 2


def test_the_first_one_decides() -> None:
    assert together(decides) == ["seen by 0"] * 2


def test_a_refusal_is_told_once() -> None:
    first, second = together(refuses)
    assert first == "InputError: name=x: taken; choose another"
    assert second.startswith(ToldElsewhereError.__name__)


def test_alone_nothing_is_asked() -> None:
    with joined(Process(), gpu=False, minutes=1) as peers:
        assert peers.any(True, False) == [True, False]
        assert peers.gathered(3) == [3]
        with pytest.raises(InputError, match="taken"):
            refuses(peers)


def test_one_that_has_gone_is_noticed() -> None:
    first, second = together(goes)
    assert first.startswith("LostProcessError: another process of the run has gone")
    assert second == "gone"
