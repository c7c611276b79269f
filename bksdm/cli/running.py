"""A training as a command: one process or several, the run's folder, signals, and the same command
again, which goes on. What is trained is the verb's business.
"""

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig

from bksdm.cli.config import built, hydra_flags, logger_of, run_path, task_overrides
from bksdm.cli.hub import tell_arrived, told_if_ended
from bksdm.cli.launch import typed_command
from bksdm.cli.start import start_processes
from bksdm.data.datamodule import ShardDataModule
from bksdm.evaluation.environment import environment
from bksdm.export.pipeline import best_device
from bksdm.processes import this_process
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.ema import Ema
from bksdm.training.folder import RunFolder
from bksdm.training.hub import HubUploads
from bksdm.training.module import StepModule
from bksdm.training.peers import Peers, joined
from bksdm.training.run import Start, check_start, fit
from bksdm.training.samples import SampleGrid
from bksdm.training.saving import CheckpointSettings
from bksdm.training.signals import Signals
from bksdm.training.slurm import job_id, requeue_after, requeue_or_wait
from bksdm.training.speed import SpeedSettings
from bksdm.training.trainer import TrainerSettings, check_together

Left = TypeVar("Left")  # what a verb has to do when the training is done
Uploads = Callable[[DictConfig, RunFolder], HubUploads | None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as this process sees it.

    Attributes:
        config: all settings.
        trainer: those of the Trainer.
        folder: of the run.
        signals: that ask it to end.
        peers: its processes.
        uploads: sends it to the Hub; None in all processes but the first, or if not wanted.
    """

    config: DictConfig
    trainer: TrainerSettings
    folder: RunFolder
    signals: Signals
    peers: Peers
    uploads: HubUploads | None

    @property
    def seed(self) -> int:
        """Of everything random."""
        return int(self.config.seed)

    def say(self, text: str | None) -> None:
        """Print it once."""
        if text and self.peers.process.first:
            print(text, flush=True)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a training is made of.

    Attributes:
        done: how a training that has come to its end is told, such as "distilled".
    """

    data: ShardDataModule
    module: StepModule
    ema: Ema
    samples: SampleGrid | None
    checkpoints: CheckpointSettings
    done: str


def running(
    verb: str,
    config: DictConfig,
    train: Callable[[Run], tuple[int, Left | None]],
    finish: Callable[[Run, Left], None],
    *,
    uploads: Uploads | None = None,
) -> int:
    """Train with all processes of the run, then finish in the first one; the exit code.

    Args:
        verb: of the command.
        config: all settings.
        train: what is not trained yet; the exit code, and what is left to do.
        finish: does what is left.
        uploads: what sends the run to the Hub, if anything does; asked in each process.
    """
    trainer = built(config.trainer, TrainerSettings)
    check_together(trainer, built(config.speed, SpeedSettings))
    process = this_process()
    count = trainer.to_start(process)
    if count > 1:
        return start_processes([verb, *hydra_flags(), *task_overrides()], count=count)
    folder = RunFolder(run_path(config))
    with Signals() as signals, ExitStack() as claim:
        try:
            with joined(process, gpu=trainer.gpu, minutes=trainer.timeout_minutes) as peers:
                seconds = 60 if job_id() else 0  # the job's last turn may still be ending
                # Before anything is read: nobody else may write while this one decides.
                peers.decided(lambda: claim.enter_context(folder.claimed(seconds=seconds)))
                made = Run(
                    config=config,
                    trainer=trainer,
                    folder=folder,
                    signals=signals,
                    peers=peers,
                    uploads=peers.each(lambda: uploads(config, folder) if uploads else None),
                )
                claim.enter_context(told_if_ended(made.uploads, folder))
                code, rest = train(made)
            # The other processes have nothing left to do, and wait for nobody.
            if rest is not None and process.first:
                finish(made, rest)
            if made.uploads is not None:
                tell_arrived(made.uploads, folder, wait=not code)
            return code
        except SystemExit as ended:  # a signal before or after the training: nothing to save
            signals.patient = True
            # Not `signals.received`: while pictures are made, `Progress` has the handlers.
            received = signal.Signals(int(ended.code or 0) - 128)
            told = requeue_or_wait(received, first=process.first)
            if told:
                print(told, flush=True)
            raise


def made_of(start: Start, path: Path) -> bool:
    """True for what was made of this checkpoint, and not of one before a run was made longer."""
    assert start.checkpoint is not None
    return path.exists() and path.stat().st_mtime >= start.checkpoint.stat().st_mtime


def trained(
    run: Run,
    parts: Parts,
    start: Start,
    values: dict[str, Any],
    *,
    before: Callable[[], None] = lambda: None,
) -> int:
    """Train to the end; 0, or the exit code of the signal that has ended it, which all processes
    agree on, once they have saved.

    Args:
        run: as this process sees it.
        parts: of the training.
        start: where it begins.
        values: the settings as plain values, kept in the run's folder.
        before: what all processes do last before the first step.
    """
    folder, peers = run.folder, run.peers
    logger = peers.each(lambda: logger_of(run.config))
    accept = parts.data.accept_changed
    peers.decided(lambda: check_start(start, parts.module, accept_changed=accept))
    # Last, so that a refused run leaves nothing behind.
    peers.decided(lambda: _begin(folder, values, start))
    run.say(_headline(run, parts.data, start))
    before()
    begin = time.monotonic()
    fit(
        parts.module,
        parts.data,
        run.trainer,
        start=start,
        folder=folder,
        ema=parts.ema,
        samples=parts.samples,
        checkpoints=parts.checkpoints,
        signals=run.signals,
        peers=peers,
        logger=logger,
        saved=run.uploads.saved if run.uploads else None,
    )
    known = peers.gathered(run.signals.received)
    received = next((each for each in known if each is not None), None)
    if received is None:
        minutes, seconds = divmod(round(time.monotonic() - begin), 60)
        run.say(f"{parts.done} in {minutes} min {seconds:02d} s")
        return 0
    if peers.process.first:
        steps = read_checkpoint(folder.checkpoint)["global_step"]
        run.say(
            f"saved {folder.checkpoint} at step {steps} after {received.name};"
            " the same command goes on",
        )
    run.signals.patient = True
    run.say(peers.decided(lambda: requeue_after(received)))
    return 128 + received


def _begin(folder: RunFolder, values: dict[str, Any], start: Start) -> None:
    folder.write_config(yaml.safe_dump(values, sort_keys=False))
    made_with = environment(best_device(this_process())) | {"command": typed_command()}
    folder.note_start(start.steps, made_with)


def _headline(run: Run, data: ShardDataModule, start: Start) -> str:
    begin = (
        f"resuming at step {start.steps} from {start.checkpoint}" if start.steps else "from step 0"
    )
    world = run.peers.process.world
    micro = f"{world} x {data.batch_size} x {data.accumulation(world)}"
    return (
        f"{run.folder.path}: {data.description}; batch {data.global_batch} (processes x"
        f" batch_size x accumulation: {micro}); {begin} of {run.trainer.max_steps}"
    )
