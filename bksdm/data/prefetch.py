"""A few threads that run jobs in the background, each name once at a time."""

import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

THREADS: Final = 4

log = logging.getLogger(__name__)


class Background:
    """Daemon threads, started as jobs come. Belongs to the process that made it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._jobs: SimpleQueue[tuple[str, Callable[[], object]]] = SimpleQueue()
        self._names: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def works_here(self) -> bool:
        """False in a forked child: threads do not survive a fork."""
        return self._pid == os.getpid()

    def submit(self, name: str, job: Callable[[], object]) -> None:
        """Run a job when a thread is free, unless one of that name is waiting or running.

        What it raises is logged (debug), nothing more.
        """
        with self._lock:
            if name in self._names:
                return
            self._names.add(name)
            if len(self._threads) < min(THREADS, len(self._names)):
                self._threads.append(threading.Thread(target=self._work, daemon=True))
                self._threads[-1].start()
        self._jobs.put((name, job))

    def _work(self) -> None:
        while True:
            name, job = self._jobs.get()
            try:
                job()
            except Exception as error:
                log.debug("in the background, %s: %s", name, error)
            finally:
                with self._lock:
                    self._names.discard(name)
