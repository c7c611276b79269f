"""What data settings may be, each by itself, and what they ask of the machine."""

import resource
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from bksdm import expected
from bksdm.data.index import ShardIndex
from bksdm.data.location import is_remote
from bksdm.data.order import Order
from bksdm.data.shards import OPEN_SHARDS
from bksdm.data.store import GB
from bksdm.errors import InputError
from bksdm.processes import this_process

_CHECKS: Final[dict[str, Callable[[str, Any], None]]] = {
    "batch_size": partial(expected.count, least=1),
    "validation_samples": partial(expected.count, least=1),
    "buffer": partial(expected.count, least=1),
    "workers": partial(expected.count, least=0),
    "resolution": partial(expected.count, least=1),
    "max_bad_fraction": partial(expected.number, least=0, most=1),
    "caption_dropout": partial(expected.number, least=0, most=1),
    "flip": expected.switch,
    "mode": partial(expected.one_of, allowed=("exact", "stream")),
    "start_method": partial(expected.one_of, allowed=(None, "fork", "forkserver", "spawn")),
}


def check_settings(**settings: Any) -> None:
    """Refuse what a setting cannot be.

    Raises:
        InputError: names the setting, its value and what was expected.
    """
    for name, value in settings.items():
        _CHECKS[name](f"data.{name}", value)


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
