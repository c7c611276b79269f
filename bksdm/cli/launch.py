"""Where a verb runs: in this process, once or (`-m`) over a sweep, or with `launcher=slurm` in jobs
of its own.

Hydra composes, expands sweeps and submits; what a verb ends with goes past it, because Hydra prints
a report of its own, and submitit tells Slurm that a job whose error it has kept went well.
"""

import importlib
import os
import shlex
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before the first import of transformers
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("SUBMITIT_LOG_LEVEL", "ERROR")  # here, and in jobs

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from bksdm.cli.explain import Ending, explained, one_line
from bksdm.cli.naming import run_name
from bksdm.errors import InputError

OmegaConf.register_new_resolver("run_name", run_name, replace=True)  # of conf/train.yaml

_MODULE: Final = "bksdm.cli.main"


class Ended(BaseException):
    """How a verb has ended, on its way past Hydra, which catches every Exception.

    Attributes:
        code: the exit code.
        error: what ended it, or None.
    """

    def __init__(self, code: int, error: Exception | None = None) -> None:
        self.code, self.error = code, error


def split_flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values (`-m`, `--cfg job`), which must come first, and the rest."""
    flags: list[str] = []
    settings: list[str] = []
    for before, item in zip(["", *arguments], arguments, strict=False):
        a_value = before.startswith("-") and before not in ("-m", "--multirun") and "=" not in item
        (flags if item.startswith("-") or a_value else settings).append(item)
    return flags, settings


def quoted(text: str) -> str:
    """Text as Hydra's grammar takes it, whatever is in it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def typed_command() -> str:
    """This command as it was typed, where `sys.argv` has what became of it."""
    typed = sys.orig_argv
    at = next(
        (i for i, item in enumerate(typed) if Path(item).name == "bksdm" or item == _MODULE), None
    )
    if at is None:  # a job of submitit, which has composed it
        job = HydraConfig.get()
        return f"bksdm {job.job.config_name} {shlex.join(job.overrides.task)}"
    return f"bksdm {shlex.join(typed[at + 1 :])}"


def launch(verb: str, overrides: list[str]) -> int:
    """Run a verb with Hydra's flags and overrides; returns the exit code.

    A sweep stops at the first job that does not end well: the same command goes on from there.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us instead of Hydra's own report
    sys.argv = [f"bksdm {verb}", *overrides]
    try:
        hydra.main(version_base="1.3", config_path="pkg://bksdm.conf", config_name=verb)(
            Task(verb)
        )()
    except Ended as ended:
        if ended.error is not None:
            raise ended.error  # noqa: B904  (its own traceback, not Hydra's)
        return ended.code
    return 0


@dataclass(frozen=True)
class Task:
    """What Hydra calls with a composed configuration: here or, pickled, in a Slurm job."""

    verb: str

    def __call__(self, config: DictConfig) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        _hide_loading_bars()
        with open_dict(config):
            config.pop("launcher", None)  # where a job runs is no setting of what it does
        if _started_by_submitit():
            self._in_slurm(config)
        else:
            self._here(config)

    def _here(self, config: DictConfig) -> None:
        try:
            code = self._run(config)
        except Exception as error:
            raise Ended(1, error) from error
        if code:
            raise Ended(code)

    def _in_slurm(self, config: DictConfig) -> None:
        # One party handles signals, and that is the verb: submitit's would requeue the job before
        # anything is saved, and ignore SIGTERM.
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)
        try:
            code = self._run(config)
        except Exception as error:
            ending = explained(error, self.verb)
            if ending is None:
                traceback.print_exc()
                ending = Ending(1, f"bksdm {self.verb}: {type(error).__name__}: {one_line(error)}")
            _leave_result(ending)
            sys.exit(ending.tell())
        if code:
            # A job that a signal has ended leaves no result: it may run again, and is waited for.
            if code < 128:
                _leave_result(Ending(code, f"bksdm {self.verb}: exit code {code}"))
            sys.exit(code)

    def _run(self, config: DictConfig) -> int:
        run: Callable[[DictConfig], int] = importlib.import_module(f"bksdm.cli.{self.verb}").run
        return run(config)


def _started_by_submitit() -> bool:
    """True in a task of a job, but not in processes that it has started."""
    spec = sys.modules["__main__"].__spec__
    return spec is not None and spec.name == "submitit.core._submit"


def _leave_result(ending: Ending) -> None:
    """What the one who waits for this job gets to know."""
    from submitit import JobEnvironment
    from submitit.core.utils import cloudpickle_dump, temporary_save_path

    environment = JobEnvironment()
    where = f" (job {environment.job_id}; log: {environment.paths.stdout})"
    line = ending.line and ending.line + where
    with temporary_save_path(environment.paths.result_pickle) as temporary:
        cloudpickle_dump(("success", FailedJob(Ending(ending.code, line))), temporary)


@dataclass(frozen=True)
class FailedJob:
    """What comes back from a Slurm job that did not end well, in place of Hydra's JobReturn."""

    ending: Ending

    @property
    def return_value(self) -> NoReturn:
        """Hydra asks each job for it."""
        raise Ended(self.ending.tell())


class BeforeSweep(Callback):
    """Looks at all jobs of a sweep before the first one starts."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse jobs that would write over each other; say where those of Slurm are found."""
        del kwargs
        jobs = _jobs(config)
        _refuse_shared_runs(jobs)
        if "launcher" in config:
            print(
                f"{len(jobs)} job{'s' * (len(jobs) > 1)} for Slurm; logs:"
                f" {config.launcher.folder}/JOB/; Ctrl-C here leaves them alone, scancel ends them",
                flush=True,
            )


def _jobs(config: DictConfig) -> list[DictConfig]:
    """The configuration of each job of a sweep."""
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    # Unresolved: name=seed-${seed} is each job's own.
    task = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(task, list)
    overrides = parser.parse_overrides(task)
    [batch] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return [loader.load_sweep_config(config, job) for job in batch]


def _refuse_shared_runs(jobs: list[DictConfig]) -> None:
    hydra_config, counts = HydraConfig.instance(), Counter[Path]()
    before = hydra_config.cfg
    for job in jobs:
        if "runs_dir" in job and "name" in job:
            hydra_config.set_config(job)  # names may have a choice of Hydra's in them
            counts[Path(job.runs_dir) / str(job.name)] += 1
    hydra_config.cfg = before
    for folder, count in counts.items():
        if count > 1:
            told = (
                f"{count} jobs of the sweep would share the run {folder}; put what differs into"
                " name=, e.g. name='seed-${seed}'"
            )
            raise Ended(2, InputError(told))


def _hide_loading_bars() -> None:
    """Bars for reading local weights hide the ones that matter; downloads keep theirs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
