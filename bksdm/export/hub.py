"""Files to a repository on the Hub, with the real client: `upload_folder` sends what is not there
yet, so the same call again goes on where it was cut.

The token is the client's business: it takes it from HF_TOKEN or the login.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from bksdm import expected
from bksdm.errors import InputError
from bksdm.export.credentials import refuse_credentials
from bksdm.models.address import SCHEME, HubAddress, check_repository
from bksdm.models.hub import TRANSPORT, first_line

T = TypeVar("T")

# Another commit came in between; too many requests; trouble on their side.
_TRANSIENT: Final = frozenset({409, 412, 429, 500, 502, 503, 504})
ATTEMPTS: Final = 5
LONGEST_WAIT: Final = 30.0  # seconds between attempts

_ADVICE: Final = {
    401: "the Hub wants a token: set HF_TOKEN, or `hf auth login` with one that may write",
    403: "the token may not write there: use one with write access to it",
    404: "no such repository, or one that the token may not see",
    409: "somebody else writes to it at the same time; the same command goes on",
    412: "somebody else wrote to it meanwhile; the same command goes on",
    413: "a file is too large for the Hub",
    429: "too many requests; wait some minutes: the same command goes on",
}
_AGAIN: Final = "the same command goes on from what has arrived"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where files go.

    Attributes:
        repo: owner/name; made if it is not there.
        revision: a branch, made if it is not there; None for main.
        tag: name for the commit; None gives none.
        private: what a new repository is; a public one that is there is refused where this is set.
    """

    repo: str
    revision: str | None = None
    tag: str | None = None
    private: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "repo", self.repo.removeprefix(SCHEME))
        check_repository(self.repo, of=f"repo={self.repo}")
        expected.switch("private", self.private)

    @property
    def address(self) -> HubAddress:
        """Where they can be had again."""
        return HubAddress(self.repo, self.tag or self.revision)


@dataclass(frozen=True)
class Pushed:
    """What has arrived: the commit, where it can be looked at, and by whom."""

    commit: str
    url: str
    private: bool


def access_problem(to: Destination) -> str | None:
    """Why a push there would be refused, as far as asking can tell; None also where the Hub cannot
    be asked.
    """
    where = f"repo={to.repo}"
    if get_token() is None:
        return f"{where}: {_ADVICE[401]}"
    try:
        me = HfApi().whoami()
    except HfHubHTTPError as error:
        if _status(error) in (401, 403):
            return f"{where}: the Hub does not take this token; {_ADVICE[401]}"
        return None
    except (TRANSPORT, OSError, ValueError):
        return None
    owners = [str(me.get("name")), *(str(each.get("name")) for each in me.get("orgs", ()))]
    if to.repo.partition("/")[0] not in owners:
        return f"{where}: the token is of {', '.join(owners)}; expected a repository of theirs"
    return None


def push(folder: Path, to: Destination, *, message: str, outdated: Sequence[str] = ()) -> Pushed:
    """Upload a folder as the content of a repository.

    Args:
        folder: what goes.
        to: where.
        message: of the commit.
        outdated: patterns of files that go from the repository if the folder has none of that name;
            all others stay.

    Raises:
        InputError: it did not arrive; says why and what helps. The same call again goes on.
    """
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    refuse_credentials(files, secret=get_token())
    api = HfApi()
    with _told(to):
        private = _retried(lambda: _repository(api, to))
        if to.tag is not None and to.tag in _tags(api, to):
            raise InputError(f"tag={to.tag}: repo={to.repo} has one of that name; choose another")
        if to.revision is not None:
            branch = to.revision
            _retried(lambda: api.create_branch(to.repo, branch=branch, exist_ok=True))
        done = _retried(
            lambda: api.upload_folder(
                repo_id=to.repo,
                folder_path=folder,
                revision=to.revision,
                commit_message=message,
                delete_patterns=list(outdated),
            )
        )
        if to.tag is not None:
            _tag(api, to, to.tag, done.oid)
    return Pushed(done.oid, f"{api.endpoint}/{to.repo}", private=private)


def _repository(api: HfApi, to: Destination) -> bool:
    """Make it if it is not there; whether it is private."""
    api.create_repo(to.repo, private=to.private, exist_ok=True)
    private = bool(api.repo_info(to.repo).private)
    if to.private and not private:
        raise InputError(
            f"repo={to.repo} is public, and private=true; say private=false to publish there"
        )
    return private


def _tags(api: HfApi, to: Destination) -> dict[str, str]:
    """Commits by tag."""
    refs = _retried(lambda: api.list_repo_refs(to.repo))
    return {tag.name: tag.target_commit for tag in refs.tags}


def _tag(api: HfApi, to: Destination, tag: str, commit: str) -> None:
    # A tag that is there by now is ours: the answer to an earlier attempt was lost.
    _retried(lambda: api.create_tag(to.repo, tag=tag, revision=commit, exist_ok=True))
    if _tags(api, to).get(tag) != commit:
        raise InputError(
            f"tag={tag}: somebody else has just taken it in repo={to.repo}; choose another (the"
            f" files have arrived, as commit {commit[:12]})"
        )


def _retried(call: Callable[[], T]) -> T:
    """The call's answer; what may pass is tried again."""
    attempts = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(max=LONGEST_WAIT),
        reraise=True,
    )
    return attempts(call)


def _may_pass(error: BaseException) -> bool:
    # What a file's upload ends with after the client's own attempts.
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    return isinstance(error, TRANSPORT | ConnectionError)


@contextmanager
def _told(to: Destination) -> Iterator[None]:
    """The client's errors as InputErrors."""
    where = f"repo={to.repo}"
    try:
        yield
    except InputError:
        raise
    except OfflineModeIsEnabled as error:
        raise InputError(f"{where}: HF_HUB_OFFLINE is set; unset it to push") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"{where}: {_ADVICE[_status(error)]}") from error
    except RevisionNotFoundError as error:
        raise InputError(f"{where}: no revision {to.revision!r}; choose another") from error
    except HfHubHTTPError as error:
        raise InputError(f"{where}: {_advice(error)}") from error
    except (TRANSPORT, ConnectionError) as error:
        raise InputError(f"{where}: {_unreachable(error)}") from error
    except RuntimeError as error:  # a file that did not go through
        cause = error.__cause__
        why = _advice(cause) if isinstance(cause, HfHubHTTPError) else _unreachable(error)
        raise InputError(f"{where}: {why}") from error
    except ValueError as error:  # the client's own checks, of the card for one
        raise InputError(f"{where}: {first_line(error)}") from error


def _unreachable(error: Exception) -> str:
    return f"the Hub cannot be reached ({first_line(error)}); {_AGAIN}"


def _status(error: HfHubHTTPError) -> int:
    return int(error.response.status_code)


def _advice(error: HfHubHTTPError) -> str:
    status = _status(error)
    return _ADVICE.get(status, f"the Hub answered {status} ({first_line(error)}); {_AGAIN}")
