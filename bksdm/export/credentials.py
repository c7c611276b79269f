"""Credentials in files that are about to be published.

Knows what they look like. Knows nothing of the Hub or of runs.
"""

import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bksdm.errors import InputError

_TEXT: Final = {".csv", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml"}
_LOOKS: Final[Mapping[str, re.Pattern[str]]] = {
    "a Hub token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "an AWS key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a signed address": re.compile(r"X-(Amz|Goog)-Signature=", re.IGNORECASE),
    "a signature of Azure": re.compile(r"[?&]sig=[\w%+/-]{20,}"),
    "a password in an address": re.compile(
        r"\b[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s@]+@", re.IGNORECASE
    ),
    "an authorization header": re.compile(r"authorization\W+(bearer|basic|token)\W", re.IGNORECASE),
    "a key or password": re.compile(
        r"(secret|api[_-]?key|access[_-]?(key|token)|passw(or)?d)\w*\W{0,2}[=:]\W{0,3}[\w+/-]{8,}",
        re.IGNORECASE,
    ),
}


def refuse_credentials(files: Mapping[str, Path], *, secret: str | None) -> None:
    """Raise InputError if a file holds a credential.

    Args:
        files: by the names that they will have.
        secret: the token in use, which is looked for in every file; the text files are searched for
            what looks like a credential, too.
    """
    for name, path in files.items():
        found = "the Hub token in use" if secret and _holds(path, secret) else None
        if found is None and path.suffix in _TEXT:
            text = path.read_text(errors="replace")
            found = next((what for what, look in _LOOKS.items() if look.search(text)), None)
        if found is not None:
            raise InputError(
                f"{path} holds what looks like {found} and would be published as {name}; take it"
                " out (tokens belong into the environment: HF_TOKEN, or `hf auth login`)"
            )


def _holds(path: Path, secret: str) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(secret.encode()) >= 0
