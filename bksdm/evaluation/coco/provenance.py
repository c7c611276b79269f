"""`provenance.json`: what a reference set is made of, and whether everything of it is there."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bksdm.atomic import replacing
from bksdm.checksum import sha256_of
from bksdm.errors import InputError

PROVENANCE: Final = "provenance.json"
FORMAT: Final = 1


def write_provenance(folder: Path, values: Mapping[str, Any]) -> None:
    """Write it, all or nothing. `finished`, `partial` and `prompts.sha256` are read again by
    `check_prompts`.
    """
    with replacing(folder / PROVENANCE) as temporary:
        text = json.dumps({"format": FORMAT, **values}, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What it says; None if it is not there.

    Raises:
        InputError: not of this version.
    """
    path = folder / PROVENANCE
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove its folder, make it again"
        ) from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path} is of another version; remove its folder, and make it again")
    return values


def sha256_of_set(names: Sequence[str], digests: Sequence[str]) -> str:
    """Of files by name and sha256, whatever their order: as `sha256sum * | sha256sum` in their
    folder.
    """
    lines = sorted(f"{digest}  {name}\n" for name, digest in zip(names, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_prompts(path: Path, *, sha256: str | None) -> bool:
    """Whether the prompts of a finished set are partial.

    Raises:
        InputError: the set is not there or not finished, or its prompts are not those that it was
            made with, or not those of `sha256`.
    """
    values = read_provenance(path.parent)
    if values is None or not values["finished"] or not path.is_file():
        state = "not finished" if values else "not there"
        raise InputError(
            f"{path} is {state}; make it from your copy of COCO: `bksdm prepare source=coco"
            f" reference={path.parent.name} source.annotations=... source.images=...`"
            " (docs/data.md)"
        )
    found, made = sha256_of(path), values["prompts"]["sha256"]
    if found != made:
        raise InputError(
            f"{path} was changed after it was made (sha256 {found[:12]}, {PROVENANCE} has"
            f" {made[:12]}); remove its folder and make it again, or use FilePrompts"
        )
    if sha256 is not None and found != sha256:
        raise InputError(
            f"{path} has sha256 {found[:12]}, prompts.sha256 asks for {sha256[:12]}; make it from"
            " the same captions, or set prompts.sha256=null"
        )
    return bool(values["partial"])
