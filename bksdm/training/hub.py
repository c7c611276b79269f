"""A run goes to the Hub while it trains: a process of its own pushes the newest state, and nothing
that happens there stops or delays the run, or changes what it computes.
"""

import atexit
import logging
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bksdm import expected
from bksdm.errors import InputError
from bksdm.export.hub import Destination
from bksdm.training.folder import RunFolder

log = logging.getLogger(__name__)

PUSHED: Final = "pushed step {step}: {url} (commit {commit})"  # what a push says that arrived
_PUSHED: Final = re.compile(r"^pushed step (\d+): ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """When and where a run is pushed.

    Attributes:
        repo: owner/name; made if it is not there.
        every_n_steps: with the first checkpoint after so many optimiser steps; the finished run is
            pushed in any case.
        revision: a branch; None for main.
        private: what a new repository is.
        license: as the Hub identifies it; None: the teacher's.
        datasets: Hub ids of the training data, for the card.
        checkpoint: push the Lightning checkpoint, too.
        patience_minutes: how long a push may take, and a finished run waits for the last.
    """

    repo: str | None
    every_n_steps: int
    revision: str | None = None
    private: bool = True
    license: str | None = None
    datasets: Sequence[str] = ()
    checkpoint: bool = True
    patience_minutes: float = 30

    def __post_init__(self) -> None:
        if self.repo is None:
            raise InputError("callbacks.hub.repo= is missing; expected owner/name")
        expected.count("callbacks.hub.every_n_steps", self.every_n_steps, least=1)
        expected.number("callbacks.hub.patience_minutes", self.patience_minutes, least=0)
        expected.switch("callbacks.hub.checkpoint", self.checkpoint)
        assert self.destination

    @property
    def destination(self) -> Destination:
        """Where it goes."""
        return Destination(repo=str(self.repo), revision=self.revision, private=self.private)


class HubUploads:
    """Pushes a run in the background, one state at a time: what is asked for meanwhile is one push
    of the newest state after it.

    Args:
        start: starts the process of a push; its output has a line like `PUSHED` if all went well,
            and the last line of its errors says what did not.
        settings: when.
        folder: of the run.
    """

    def __init__(
        self, start: Callable[[], subprocess.Popen[str]], settings: HubSettings, folder: RunFolder
    ) -> None:
        self.start, self.settings, self.folder = start, settings, folder
        self._changed = threading.Condition()
        self._wanted: int | None = None  # step that is asked for, until its push has begun
        self._asked = 0  # step that was asked for last
        self._busy = False
        self._arrived: int | None = None
        self._problem: str | None = None
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.stop)
        # A daemon: a job that has to go does not wait for the Hub.
        threading.Thread(target=self._work, name="hub", daemon=True).start()

    def saved(self, step: int) -> None:
        """A checkpoint of this step is there; push it if it is time. Returns at once."""
        if step // self.settings.every_n_steps > self._asked // self.settings.every_n_steps:
            self._ask(step)

    def finish(self, step: int) -> str:
        """Push the finished run, wait for it, and say what has arrived."""
        self._ask(step)
        end = time.monotonic() + 60 * self.settings.patience_minutes
        with self._changed:
            self._changed.wait_for(self._idle, timeout=max(0.0, end - time.monotonic()))
        return self.told(step)

    def told(self, step: int) -> str:
        """What of this step has arrived by now, in a line."""
        with self._changed:
            arrived, problem, idle = self._arrived, self._problem, self._idle()
        to = self.settings.destination
        if arrived == step and problem is None and idle:
            return f"hub: step {step} is in {to.address}"
        there = "nothing" if arrived is None else f"step {arrived}"
        why = problem or "the rest was still on its way"
        again = f"bksdm push run={self.folder.path} repo={to.repo}"
        again += f" revision={to.revision}" * (to.revision is not None)
        again += f" license={self.settings.license or 'ID'}" * ("license=" in (problem or ""))
        return (
            f"hub: of step {step}, {there} has arrived in {to.address} ({why}); `{again}` sends it"
        )

    def stop(self) -> None:
        """End a push that is under way: what has arrived stays, and the next one goes on."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()

    def _idle(self) -> bool:
        return self._wanted is None and not self._busy

    def _ask(self, step: int) -> None:
        with self._changed:
            self._wanted = self._asked = step
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None)
                self._wanted, self._busy = None, True
            arrived, problem = self._pushed()
            if problem is not None and problem != self._problem:
                log.warning("hub: %s; the run goes on", problem)
            with self._changed:
                self._arrived = self._arrived if arrived is None else arrived
                self._problem, self._busy = problem, False
                self._changed.notify_all()

    def _pushed(self) -> tuple[int | None, str | None]:
        """Push what is on disk now; the step that has arrived, or what went wrong."""
        try:
            self._process = self.start()
            output, errors = self._process.communicate(timeout=60 * self.settings.patience_minutes)
        except subprocess.TimeoutExpired:
            self.stop()
            minutes = self.settings.patience_minutes
            return None, f"a push did not end within {minutes:g} minutes"
        except OSError as error:  # no memory or no room for a process: the run goes on
            return None, f"{type(error).__name__}: {error}"
        found = _PUSHED.search(output)
        if self._process.returncode == 0 and found:
            return int(found[1]), None
        said = errors.strip().splitlines()[-1:] or [f"exit code {self._process.returncode}"]
        return None, said[0].removeprefix("bksdm push: ")
