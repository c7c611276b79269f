"""What the shards of a folder were made with, so that two makings never mix in it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

from bksdm.cli.config import differing_keys
from bksdm.data.listing import Listing
from bksdm.data.record import write_text
from bksdm.errors import InputError

MANIFEST: Final = "prepare.json"
LIST: Final = "prepare.list"  # a digest of each sample, to tell how many have changed
_FREE: Final = frozenset({"out", "workers", "source._target_"})


def claim(folder: Path, values: dict[str, Any], listing: Listing | None) -> None:
    """Remember the settings and the samples of a folder.

    Raises:
        InputError: the folder is of other settings, of other samples, or of somebody else.
    """
    manifest = folder / MANIFEST
    digests = sorted(sample.digest for sample in listing.samples) if listing else []
    if manifest.exists():
        old = _manifest(manifest)
        keys = differing_keys(old, values, free=_FREE)
        if keys:
            was = ", ".join(f"{key} was {_value(old, key)}" for key in keys)
            raise InputError(
                f"{folder} holds shards of other settings ({was}); use another out=, or remove it"
            )
        _check_list(folder, digests)
    elif any(folder.glob("*.tar")):
        raise InputError(f"{folder} holds shards that are not of bksdm prepare; use another out=")
    folder.mkdir(parents=True, exist_ok=True)
    if listing is not None:
        write_text(folder / LIST, "".join(f"{digest}\n" for digest in digests))
    write_text(manifest, json.dumps(values, indent=1))


def _manifest(path: Path) -> dict[str, Any]:
    old: dict[str, Any] = json.loads(path.read_text())
    if old.get("source") == "shapes":  # as 0.1.0 was before other sources
        old["source"] = {"name": "shapes", "train_samples": old.pop("train_samples", None)}
        old.pop("folder", None)
    return old


def _value(values: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _check_list(folder: Path, digests: list[str]) -> None:
    try:
        old = Counter((folder / LIST).read_text().split())
    except FileNotFoundError:
        return
    new = Counter(digests)
    added, removed = (new - old).total(), (old - new).total()
    if added or removed:
        raise InputError(
            f"the samples have changed since {folder} was begun ({added:,} added, {removed:,}"
            " removed; a sample is a name and its caption); put them back, or make all shards"
            " anew: use another out=, or remove it"
        )
