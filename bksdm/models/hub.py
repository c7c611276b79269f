"""Files of the Hub, and what went wrong in words."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bksdm.errors import InputError
from bksdm.models.address import HubAddress

# The base of all that the client raises for a request: of whichever httpx it is built on.
TRANSPORT: Final[type[Exception]] = HfHubHTTPError.__bases__[0]


class NotInRepositoryError(InputError):
    """The repository is there, and has no such file."""


def hub_file(repository: str, file: str, *, revision: str | None, of: str) -> Path:
    """A file of a repository on the Hub, downloaded unless it is in the cache.

    Args:
        repository: its id.
        file: path in it.
        revision: branch, tag or commit.
        of: what it is for, to begin messages with.

    Raises:
        NotInRepositoryError: the repository has no such file.
        InputError: the repository cannot be had.
    """
    with reading_told(of, f"{file} in {repository}", revision):
        return Path(hf_hub_download(repository, file, revision=revision))


def hub_folder(address: HubAddress, patterns: Sequence[str], *, of: str) -> Path:
    """The cache's folder of a commit, with those of its files that match.

    Raises:
        InputError: the repository cannot be had.
    """
    with reading_told(of, address.repository, address.revision):
        return Path(
            snapshot_download(
                address.repository, revision=address.revision, allow_patterns=list(patterns)
            )
        )


@contextmanager
def reading_told(of: str, what: str, revision: str | None) -> Iterator[None]:
    """The client's errors as InputErrors that begin with `of`."""
    cause: Exception
    try:
        yield
    except GatedRepoError as error:
        problem, cause = "it is gated: accept its licence on the Hub, then `hf auth login`", error
    except RepositoryNotFoundError as error:
        problem, cause = "no such repository on the Hub, or a private one: `hf auth login`", error
    except RevisionNotFoundError as error:
        problem, cause = f"no revision {revision!r}; choose another", error
    except LocalEntryNotFoundError as error:
        problem, cause = "not cached, and the Hub cannot be reached; expected a folder here", error
    except EntryNotFoundError as error:
        raise NotInRepositoryError(f"{of}: no {what}") from error
    except (TRANSPORT, OSError, ValueError) as error:
        problem, cause = f"neither a folder nor on the Hub ({first_line(error)})", error
    else:
        return
    raise InputError(f"{of}: {problem}") from cause


def first_line(error: BaseException) -> str:
    """What a library's error says first, or its class if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
