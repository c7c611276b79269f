"""A run goes to the Hub while it trains: a thread of its own sends the newest state, and nothing
that happens there stops or delays the run.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bksdm import expected
from bksdm.errors import InputError
from bksdm.export.hub import Destination, push
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import RunFolder
from bksdm.training.publish import staged
from bksdm.training.run_card import CardWishes

log = logging.getLogger(__name__)


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
        patience_minutes: how long the end of a finished run waits for what is still on its way.
    """

    repo: str
    every_n_steps: int
    revision: str | None = None
    private: bool = True
    license: str | None = None
    datasets: Sequence[str] = ()
    checkpoint: bool = True
    patience_minutes: float = 30

    def __post_init__(self) -> None:
        expected.count("callbacks.hub.every_n_steps", self.every_n_steps, least=1)
        expected.number("callbacks.hub.patience_minutes", self.patience_minutes, least=0)
        expected.switch("callbacks.hub.checkpoint", self.checkpoint)
        assert self.destination

    @property
    def destination(self) -> Destination:
        """Where it goes."""
        return Destination(repo=self.repo, revision=self.revision, private=self.private)

    @property
    def wishes(self) -> CardWishes:
        """For the card."""
        return CardWishes(
            repository=self.repo,
            revision=self.revision,
            license=self.license,
            datasets=tuple(self.datasets),
            checkpoint=self.checkpoint,
        )


class HubUploads:
    """Pushes a run in the background, one state at a time: what is asked for meanwhile is one push
    of the newest state after it.
    """

    def __init__(self, settings: HubSettings, folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder
        self._changed = threading.Condition()
        self._wanted: int | None = None  # step that is asked for, until its push has begun
        self._asked = 0  # step that was asked for last
        self._busy = False
        self._arrived: int | None = None
        self._problem: str | None = None
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
            arrived, problem = self._arrived, self._problem
        to = self.settings.destination
        if arrived == step and problem is None:
            return f"hub: step {step} is in {to.address}"
        there = "nothing" if arrived is None else f"only step {arrived}"
        why = problem or "it was still on its way"
        again = f"bksdm push run={self.folder.path} repo={to.repo}"
        again += f" revision={to.revision}" * (to.revision is not None)
        return (
            f"hub: {there} of {step} steps has arrived in {to.address} ({why}); `{again}` sends it"
        )

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
            arrived, problem = None, None
            try:
                arrived = self._push()
            except InputError as error:
                problem = str(error)
            except Exception as error:  # whatever it is, the run goes on
                problem = f"{type(error).__name__}: {error}"
            if problem is not None and problem != self._problem:
                log.warning("hub: %s; the run goes on", problem)
            with self._changed:
                self._arrived = self._arrived if arrived is None else arrived
                self._problem, self._busy = problem, False
                self._changed.notify_all()

    def _push(self) -> int:
        """Push what is on disk now; returns its step."""
        with staged(self.folder, self.settings.wishes) as stage:
            kept = stage / "checkpoints" / self.folder.checkpoint.name
            newest = kept if kept.exists() else self.folder.checkpoint
            step = int(read_checkpoint(newest)["global_step"])
            push(stage, self.settings.destination, message=f"step {step}")
        return step
