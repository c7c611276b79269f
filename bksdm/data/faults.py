"""What a failed transfer means: nothing there, refused, worth another try, or not the wire's fault.

Knows how aiohttp, botocore, huggingface_hub and the system say it, by attributes and names, so that
none of them has to be installed.
"""

import errno
from enum import Enum
from typing import Any, Final

from bksdm.data.filesystems import shown
from bksdm.errors import InputError

_LOCAL_ERRNOS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE}
_PASSING_STATUS: Final = {408, 425, 429}
_FINAL_NAMES: Final = {
    "ClientConnectorCertificateError",
    "InvalidUrlClientError",
    "InvalidURL",
    "NoCredentialsError",
    "NonHttpUrlClientError",
    "OfflineModeIsEnabled",
    "PartialCredentialsError",
}


class Verdict(Enum):
    """What to do about an exception."""

    ABSENT = "nothing there"
    REFUSED = "asking again changes nothing"
    PASSING = "worth another try"
    OURS = "not the wire's: the disk, the user's input or a bug"


class AbsentError(InputError):
    """There is nothing at a location."""


def verdict(error: BaseException) -> Verdict:
    """What an exception from a transfer means."""
    if isinstance(error, InputError) or getattr(error, "errno", None) in _LOCAL_ERRNOS:
        return Verdict.OURS
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        # fsspec says "not found" whatever kept it from learning an object's size over HTTP.
        cause = verdict(error.__cause__) if error.__cause__ else Verdict.ABSENT
        return Verdict.ABSENT if cause is Verdict.OURS else cause
    status = _status(error)
    if status in (404, 410):
        return Verdict.ABSENT
    if status is not None and 400 <= status < 500 and status not in _PASSING_STATUS:
        return Verdict.REFUSED
    if isinstance(error, PermissionError) or type(error).__name__ in _FINAL_NAMES:
        return Verdict.REFUSED
    foreign = type(error).__module__.partition(".")[0] != "builtins"
    return Verdict.PASSING if foreign or isinstance(error, OSError | EOFError) else Verdict.OURS


def explained(error: Exception, location: str, *, tries: int) -> Exception:
    """The exception to raise for one that ended a transfer: an InputError that names the location,
    what was said and the remedy, or the error itself if it is not the wire's.
    """
    kind, place, said = verdict(error), shown(location), _said(error, location)
    if kind is Verdict.ABSENT:
        return AbsentError(f"nothing at {place} ({said}); check the address")
    if kind is Verdict.REFUSED:
        remedy = (
            "; check your credentials (FSSPEC_S3_ANON=true reads a public bucket)"
            if place.startswith("s3")
            else "; check the address and your rights"
        )
        return InputError(f"{place} cannot be read ({said}){remedy}")
    if kind is Verdict.PASSING:
        return InputError(
            f"{place} could not be read in {tries} tries ({said}); check the connection, then run"
            " the same command again"
        )
    return error


def _status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None) or getattr(error, "status", None)
    return status if isinstance(status, int) and status >= 400 else None


def _said(error: BaseException, location: str) -> str:
    source = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    status = _status(source)
    if status is not None and getattr(source, "message", None):
        return f"HTTP {status} {source.message}"  # type: ignore[attr-defined]
    if status is None and isinstance(error, FileNotFoundError):
        return "not found" if source is error else _line(source, location)
    return _line(error, location)


def _line(error: BaseException, location: str) -> str:
    lines = str(error).replace(location, shown(location)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
