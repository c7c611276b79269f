"""A limit on what compiles, or hangs."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class ImpatientError(Exception):
    """It took too long."""


@contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Inside the block work is called after so many seconds as Ctrl-C would call it, which nothing
    takes for an error of its own.

    Raises:
        ImpatientError: it was.
    """

    def too_long(*signal_and_frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, too_long)
    # Again and again: what comes while an object is taken down is lost.
    signal.setitimer(signal.ITIMER_REAL, max(1, seconds), 20)
    try:
        yield
    except KeyboardInterrupt as error:
        raise ImpatientError(f"more than {seconds} s") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
