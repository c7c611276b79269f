"""The folder of a run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bksdm.atomic import replacing
from bksdm.errors import InputError
from bksdm.training.checkpoint import LAST, PREVIOUS
from bksdm.training.loggers import METRICS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Where everything of a run lies. No time stamp in the path, so that a requeued job finds
    itself.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    def write_config(self, text: str) -> None:
        """Make the folder and write its configuration, all or nothing."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        with replacing(self.config) as temporary:
            temporary.write_text(text)

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.checkpoints / LAST

    @property
    def begun(self) -> bool:
        """True if there is something to go on from."""
        kept = (self.checkpoint, self.checkpoints / PREVIOUS)
        return self.config.exists() and any(path.exists() for path in kept)

    @property
    def student(self) -> Path:
        """The exported diffusers folder."""
        return self.path / "student"

    @property
    def samples(self) -> Path:
        """Sample grids."""
        return self.path / "samples"

    @property
    def results(self) -> Path:
        """Scores of the finished student."""
        return self.path / "results.json"

    @property
    def evaluation(self) -> Path:
        """What the scores are of: pictures and values."""
        return self.path / "evaluation"

    @property
    def metrics(self) -> Path:
        """Everything that was logged."""
        return self.path / METRICS

    @property
    def non_finite(self) -> Path:
        """What is needed to reproduce the first step whose loss was no number."""
        return self.path / "non_finite.json"

    @contextmanager
    def claimed(self, *, seconds: float) -> Iterator[None]:
        """Nobody else trains this run while the block runs.

        Args:
            seconds: to wait for one who does; a job that is requeued may still be ending.

        Raises:
            InputError: somebody does.
        """
        new = not self.path.parent.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder: a run that is refused leaves neither.
        held = self.path.with_name(f".{self.path.name}.lock")
        lock = FileLock(held, timeout=seconds)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(
                f"{self.path} is being trained by another process; wait for it, or choose another"
                " name="
            ) from error
        except NotImplementedError:  # a file system without locks
            log.warning("%s cannot be locked here: see that only one job trains it", self.path)
        try:
            yield
        finally:
            if not self.path.exists():
                held.unlink(missing_ok=True)
                with suppress(OSError):  # other runs have come
                    if new:
                        self.path.parent.rmdir()
            lock.release()
