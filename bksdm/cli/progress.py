"""How far a long job is: a bar on a terminal, else a line now and then. Both tell rate and time
left.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tqdm import tqdm

SECONDS_BETWEEN_LINES: Final = 15.0


@contextmanager
def progress(
    total: int, *, what: str, unit: str, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """A function to be called with the number of units just done."""
    if not shown:
        yield lambda _: None
        return
    if sys.stdout.isatty():
        with tqdm(total=total, desc=what, unit=unit, file=sys.stdout, dynamic_ncols=True) as bar:

            def advance(count: int) -> None:
                bar.update(count)

            yield advance
        return
    lines = _Lines(total, what, unit)
    yield lines.update


class _Lines:
    def __init__(self, total: int, what: str, unit: str) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.done = 0
        self.begin = self.printed = time.monotonic()

    def update(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.printed < SECONDS_BETWEEN_LINES:
            return
        self.printed = now
        rate = self.done / (now - self.begin)
        left = tqdm.format_interval((self.total - self.done) / max(rate, 1e-9))
        print(
            f"{self.what}: {self.done}/{self.total} {self.unit}s, {rate:.1f} {self.unit}s/s,"
            f" {left} left",
            flush=True,
        )
