"""Addresses of repositories on the Hub: hf://owner/name@revision. Knows nothing of downloads."""

import re
from dataclasses import dataclass
from typing import Final

from bksdm.errors import InputError

SCHEME: Final = "hf://"
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class HubAddress:
    """A repository on the Hub, at a branch, tag or commit (None: its main branch)."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        """As it is given."""
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.repository}{at}"


def hub_address(text: str) -> HubAddress | None:
    """The address that a text is; None where it does not begin with hf://.

    Raises:
        InputError: it begins so, and is none.
    """
    if not text.startswith(SCHEME):
        return None
    repository, at, revision = text.removeprefix(SCHEME).rstrip("/").partition("@")
    check_repository(repository, of=text)
    if at and not revision:
        raise InputError(f"{text}: expected a branch, tag or commit after the @")
    return HubAddress(repository, revision or None)


def check_repository(repository: str, *, of: str) -> None:
    """Refuse what can be no repository's id.

    Raises:
        InputError: it begins with `of`.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"{of}: expected owner/name")
