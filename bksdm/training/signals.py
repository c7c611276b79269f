"""Signals that ask a run to end: noted from its start, acted upon where nothing is lost.

Ours are the only handlers: Lightning's, and submitit's in a job that it has started, would act in
the middle of a step.
"""

import signal
from types import FrameType
from typing import Any, Final

# Ctrl-C; scancel and preemption; what schedulers are asked to send ahead of a time limit.
HEEDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Notes a signal while the block runs.

    Outside training it ends the process at once, with exit code 128 + its number. While `patient`
    is set it waits until somebody asks for `received`; only a second Ctrl-C does not.

    Attributes:
        received: the first signal that came, to any process once they have agreed, or None.
        patient: true while training, which ends itself at a step's end.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.patient = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in HEEDED}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
        if not self.patient:
            raise SystemExit(128 + number)
