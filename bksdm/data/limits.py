"""What data settings may be, each by itself, and what they ask of the machine."""

import resource
from collections.abc import Callable
from typing import Any

from bksdm.data.index import ShardIndex
from bksdm.data.location import is_remote
from bksdm.data.order import Order
from bksdm.data.shards import OPEN_SHARDS
from bksdm.data.store import GB
from bksdm.errors import InputError
from bksdm.processes import this_process


def check_settings(**settings: Any) -> None:
    """Refuse what a setting cannot be.

    Raises:
        InputError: names the setting, its value and what was expected.
    """
    expected: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "batch_size": ("a number, at least 1", lambda value: _is_count(value, 1)),
        "validation_samples": ("a number, at least 1", lambda value: _is_count(value, 1)),
        "buffer": ("a number, at least 1", lambda value: _is_count(value, 1)),
        "workers": ("a number, at least 0", lambda value: _is_count(value, 0)),
        "resolution": ("a number, at least 1", lambda value: _is_count(value, 1)),
        "max_bad_fraction": ("a number from 0 to 1", _is_share),
        "caption_dropout": ("a number from 0 to 1", _is_share),
        "flip": ("true or false", lambda value: isinstance(value, bool)),
        "mode": ("exact or stream", ("exact", "stream").__contains__),
        "start_method": (
            "fork, forkserver, spawn or null",
            (None, "fork", "forkserver", "spawn").__contains__,
        ),
    }
    for name, value in settings.items():
        words, fits = expected[name]
        if not fits(value):
            raise InputError(f"data.{name}={value}: expected {words}")


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def shards_in_turn(order: Order) -> int:
    """Shards that a process reads in turn: a window of each of its lanes, and the next ones.

    Raises:
        InputError: more than it may have files open.
    """
    lanes = -(-order.lanes // this_process().world)
    needed = 2 * order.window * lanes
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    if needed > allowed:
        raise InputError(
            f"data.window={order.window} with {lanes} of data.lanes={order.lanes} a process:"
            f" {needed} shards would be open at once, {allowed} may be; use less, or raise"
            " `ulimit -n`"
        )
    return max(needed, OPEN_SHARDS)


def check_cache(index: ShardIndex, order: Order, *, max_gb: float) -> None:
    """Refuse a cache that the remote shards read in turn would overflow again and again.

    Raises:
        InputError: says what they take.
    """
    remote = sorted(shard.size for shard in index.shards if is_remote(shard.location))
    count = 2 * order.window * -(-order.lanes // this_process().nodes)
    needed = sum(remote[-count:]) / GB
    if needed > max_gb:
        raise InputError(
            f"data.cache.max_gb={max_gb:g}: the {count} shards that are read in turn take"
            f" {needed:.3g} GB and would be downloaded again and again; raise it, or use a smaller"
            " data.window"
        )
