"""The folder of a run."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from filelock import FileLock, Timeout

from bksdm.atomic import replacing
from bksdm.errors import InputError
from bksdm.evaluation.environment import without_home
from bksdm.export.mixture_folder import ANALYSIS
from bksdm.export.whole import STUDENT
from bksdm.models.source import TeacherSource
from bksdm.surgery.plans import Plan, kind_of
from bksdm.training.checkpoint import LAST, PREVIOUS
from bksdm.training.loggers import METRICS

log = logging.getLogger(__name__)

T = TypeVar("T")

STARTS: Final = "starts.jsonl"
_GROUPS: Final = ("teacher", "student")


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

    def settings(self) -> dict[str, Any]:
        """The resolved configuration as plain values. Nothing of it is run: it may be a stranger's.

        Raises:
            InputError: it is not there, or no configuration.
        """
        try:
            values = yaml.safe_load(self.config.read_text())
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path}: no {self.config.name}; expected a run's folder, such as"
                " runs/shapes-small"
            ) from error
        except yaml.YAMLError as error:
            raise InputError(f"{self.config}: {' '.join(str(error).split())}") from error
        groups = [values.get(name) for name in _GROUPS] if isinstance(values, dict) else [None]
        if not all(isinstance(group, dict) for group in groups):
            raise InputError(f"{self.config}: no configuration of `bksdm train`")
        return dict(values)

    def teacher(self) -> TeacherSource:
        """Where the run's teacher comes from.

        Raises:
            InputError: see `settings`.
        """
        return value_of(TeacherSource, self.settings()["teacher"])

    def plan(self) -> Plan:
        """What the run's student keeps.

        Raises:
            InputError: see `settings`.
        """
        values = self.settings()["student"]
        return value_of(kind_of(values), values)

    def guidance(self) -> float | None:
        """Guidance scale of the sample grids; None where the settings have none.

        Raises:
            InputError: see `settings`.
        """
        found: Any = self.settings()
        for name in ("samples", "sampling", "guidance"):
            found = found.get(name) if isinstance(found, dict) else None
        return float(found) if isinstance(found, int | float) else None

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
        return self.path / STUDENT

    @property
    def router(self) -> Path:
        """The router, of a run of `bksdm route`."""
        return self.path / "router"

    @property
    def routing(self) -> Path:
        """What its experts get, and cost."""
        return self.path / "routing.json"

    @property
    def analysis(self) -> Path:
        """Who gets what, and how hard it is."""
        return self.path / ANALYSIS

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

    def starts(self) -> list[dict[str, Any]]:
        """When, how and with what the run was started and resumed, in order; empty for a run from
        before that was kept.
        """
        if not self._starts.is_file():
            return []
        return [json.loads(line) for line in self._starts.read_text().splitlines() if line]

    def note_start(self, step: int, environment: Mapping[str, Any]) -> None:
        """Keep what it is started with now."""
        with self._starts.open("a") as file:
            file.write(without_home(json.dumps({"step": step, **environment})) + "\n")

    @property
    def _starts(self) -> Path:
        return self.path / STARTS

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
        taken = (
            f"{self.path} is being trained by another process; wait for it, or choose another name="
        )
        with alone(held, seconds=seconds, taken=taken):
            try:
                yield
            finally:
                if not self.path.exists():
                    held.unlink(missing_ok=True)
                    with suppress(OSError):  # other runs have come
                        if new:
                            self.path.parent.rmdir()


@contextmanager
def alone(lock_file: Path, *, seconds: float, taken: str) -> Iterator[None]:
    """Nobody else holds the lock while the block runs; it is given back when a process dies.

    Args:
        lock_file: made if it is not there.
        seconds: to wait for one who holds it.
        taken: what is said if somebody still does.

    Raises:
        InputError: somebody does.
    """
    lock = FileLock(lock_file, timeout=seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(taken) from error
    except NotImplementedError:  # a file system without locks
        log.warning("%s cannot be locked here: see that only one job is at work", lock_file)
    try:
        yield
    finally:
        lock.release()


def value_of(kind: type[T], node: Mapping[str, Any]) -> T:
    """A value from its settings, of this class whatever their `_target_` says."""
    try:
        return kind(**{name: value for name, value in node.items() if name != "_target_"})
    except TypeError as error:
        raise InputError(f"settings of {kind.__name__}: {error}") from error
