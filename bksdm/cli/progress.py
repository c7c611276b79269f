"""How far a long job is: a bar on a terminal, else a line now and then. Both tell rate and time
left.
"""

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from tqdm import tqdm


class Progress:
    """Progress in units of work. SIGINT and SIGTERM are noted, and raised from `advance`: raised
    anywhere else they could leave a lock of a pool of workers held, or half a file behind.
    """

    def __init__(
        self,
        total: int,
        *,
        what: str,
        unit: str = "image",
        shown: bool = True,
        seconds: float = 15,
    ) -> None:
        self.total, self.what, self.unit, self.seconds = total, what, unit, seconds
        self.shown = shown and total > 0
        self.done = 0
        self._begin = self._printed = time.monotonic()
        hidden = not (self.shown and sys.stdout.isatty())
        self._bar = tqdm(
            total=total, desc=what, unit=unit, file=sys.stdout, disable=hidden, dynamic_ncols=True
        )
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Progress":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._bar.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._received:  # whoever asks twice does not want to wait for a unit's end
            raise SystemExit(128 + number)
        self._received.append(number)

    @property
    def left(self) -> int:
        """Units that are not done."""
        return self.total - self.done

    def advance(self, count: int) -> None:
        """So many units more are done."""
        if self._received:
            if self.shown:
                print(f"{self.what}: stopped; what is finished stays, the same command goes on")
            raise SystemExit(128 + self._received[0])
        self.done += count
        self._bar.update(count)
        now = time.monotonic()
        if not self.shown or not self._bar.disable or now - self._printed < self.seconds:
            return
        self._printed = now
        rate = self.done / (now - self._begin)
        left = tqdm.format_interval((self.total - self.done) / max(rate, 1e-9))
        print(
            f"{self.what}: {self.done:,}/{self.total:,} {self.unit}s,"
            f" {rate:,.0f} {self.unit}s/s, {left} left",
            flush=True,
        )
