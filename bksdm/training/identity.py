"""Whether a checkpoint is of this run: the same plan or router, teacher and data."""

import json
import logging
from pathlib import Path
from typing import Any

from bksdm.data.index import changes
from bksdm.errors import InputError

log = logging.getLogger(__name__)


def check_identity(
    saved: dict[str, Any], now: dict[str, Any], *, checkpoint: Path, accept_changed: bool
) -> None:
    """Refuse to go on from a checkpoint of something else.

    Raises:
        InputError: it is of another plan, router or teacher, or of other data and
            `accept_changed` is not set.
    """
    check_init(saved, now.get("init"), checkpoint=checkpoint)
    for name in ("plan", "router", "teacher"):
        was, is_now = saved.get(name), now.get(name)
        if was != is_now:
            raise InputError(
                f"checkpoint {checkpoint} is of another {name}: {_short(was)},"
                f" now {_short(is_now)}; restore it, or choose another name="
            )
    check_same_data(saved["data"], now["data"], checkpoint=checkpoint, accept=accept_changed)


def check_init(saved: dict[str, Any], now: Any, *, checkpoint: Path) -> None:
    """Refuse a student that began as another model than `method.init` is now; where its folder lies
    makes no difference.

    Raises:
        InputError: says both.
    """
    was, is_now = (each and {**each, "path": None} for each in (saved.get("init"), now))
    if was != is_now:
        raise InputError(
            f"checkpoint {checkpoint} is of another init: {_short(saved.get('init'))}, now"
            f" {_short(now)}; put that model back into the folder of method.init=, or choose"
            " another name="
        )


def _short(value: Any) -> str:
    """JSON; of an ancestor without the plan of its zeros, which its hashes stand for."""
    if isinstance(value, dict):
        value = {name: each for name, each in value.items() if name != "sparsity"}
    return json.dumps(value)


def check_same_data(
    saved: dict[str, Any], now: dict[str, Any], *, checkpoint: Path, accept: bool
) -> None:
    """Refuse to go on with other samples, or the same ones in another order.

    Raises:
        InputError: says what has changed, unless `accept` is set: then a warning does.
    """
    if "order" not in saved:
        raise InputError(
            f"checkpoint {checkpoint} was written by an older bksdm; finish the run with that"
            " version, or choose another name="
        )
    words = [
        f"data.{name} was {saved['order'].get(name)}, is {now['order'].get(name)}"
        for name in dict.fromkeys((*saved["order"], "selection"))
        if now["order"].get(name) != saved["order"].get(name)
    ]
    for split in ("training", "validation"):
        what = changes(saved[split], now[split])
        if what:
            words.append(f"{split} shards: {what}")
    if words and not accept:
        raise InputError(
            f"checkpoint {checkpoint} was trained on other data: {'; '.join(words)}; put the old"
            " data back, choose another name=, or go on with data.accept_changed=true (exact"
            " resume is lost)"
        )
    if words:
        log.warning("going on with other data, as data.accept_changed says: %s", "; ".join(words))
