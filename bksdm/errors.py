"""The exceptions that a command ends with: the user must change something, or others have gone."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input. The message names the value, what was expected and the remedy, in one line;
    commands exit with 2.
    """

    def __init__(self, message: str) -> None:
        # torch raises a loader process's error again with its whole traceback as the message.
        super().__init__(message.rpartition("bksdm.errors.InputError: ")[2])


class ToldElsewhereError(InputError):
    """The same, in a process that need not say it: another one does."""


class LostProcessError(RuntimeError):
    """Another process of the run has gone, or did not come."""


def of_the_disk(error: OSError) -> str | None:
    """What an error of the disk asks of the user; None if it is of another kind."""
    place = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left on the device{' for' * bool(place)}{place}; free some and run it again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"no right to use{place or ' a file'}: {error.strerror}; choose another, or change it"
        )
    return None


@contextmanager
def told_plainly() -> Iterator[None]:
    """In a loader process: errors that the user can do something about become InputErrors, which
    is what is left of them when torch raises them again in the training process.
    """
    try:
        yield
    except InputError as error:
        raise InputError(str(error)) from None  # not a subclass: torch keeps the message alone
    except OSError as error:
        told = of_the_disk(error)
        if told is None:
            raise
        raise InputError(told) from error
