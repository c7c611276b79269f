"""bksdm train."""

import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from bksdm.cli.config import (
    built,
    hydra_flags,
    logger_of,
    plain,
    run_path,
    task_overrides,
)
from bksdm.cli.expert import settled, student_plan
from bksdm.cli.finish import Rest, finish
from bksdm.cli.hub import hub_uploads, tell_arrived, told_if_ended
from bksdm.cli.launch import typed_command
from bksdm.cli.resume import fetch, resumed, run_address
from bksdm.cli.same_run import check_same_run
from bksdm.cli.start import start_processes
from bksdm.cli.student import beginning, cut, distillation, picture_resolution
from bksdm.data.datamodule import ShardDataModule
from bksdm.evaluation.environment import environment
from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.prompts import from_texts
from bksdm.export.folder import ExportSettings
from bksdm.export.pipeline import best_device
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.processes import this_process
from bksdm.surgery.plans import Plan
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.distill import Distillation
from bksdm.training.ema import Ema
from bksdm.training.folder import RunFolder
from bksdm.training.hub import HubUploads
from bksdm.training.peers import Peers, joined
from bksdm.training.run import Start, check_start, fit, start_of
from bksdm.training.samples import SampleGrid
from bksdm.training.saving import CheckpointSettings
from bksdm.training.signals import Signals
from bksdm.training.slurm import job_id, requeue_after, requeue_or_wait
from bksdm.training.speed import SpeedSettings
from bksdm.training.trainer import TrainerSettings, check_together


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


def run(config: DictConfig) -> int:
    """Cut, distil, export, evaluate; each part is skipped if it is done."""
    config = settled(resumed(config))
    trainer = built(config.trainer, TrainerSettings)
    check_together(trainer, built(config.speed, SpeedSettings))
    process = this_process()
    count = trainer.to_start(process)
    if count > 1:
        return start_processes(["train", *hydra_flags(), *task_overrides()], count=count)
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
                    uploads=peers.each(lambda: hub_uploads(config, folder, first=process.first)),
                )
                claim.enter_context(told_if_ended(made.uploads, folder))
                code, rest = _trained(made)
            # The other processes have nothing left to do, and wait for nobody.
            if rest is not None and process.first:
                finish(config, folder, rest, gpu=trainer.gpu)
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


def _trained(run: Run) -> tuple[int, Rest | None]:
    """Train what is not trained yet; the exit code, and what is left to do."""
    config, folder = run.config, run.folder
    values = run.peers.each(lambda: plain(config))
    start = run.peers.decided(lambda: _start(run, values))
    source, plan = run.peers.each(
        lambda: (built(config.teacher, TeacherSource), student_plan(config))
    )
    # Of a form that the student cannot have, before the work.
    run.peers.each(lambda: built(config.export, ExportSettings).narrow(plan))
    trained = start.steps >= run.trainer.max_steps
    made = [folder.student / "model_index.json", *[folder.results] * bool(config.protocol)]
    if trained and all(_is_of(start, path) for path in made):
        run.say(f"{folder.path} is finished: {start.steps} steps; student in {folder.student}")
        return 0, None
    teacher = run.peers.each(lambda: load_teacher(source))
    if start.checkpoint is not None and trained:
        return 0, Rest(teacher, plan, start.checkpoint)
    received = _distil(run, values, teacher, plan, start)
    if received is not None:  # all processes have saved
        run.signals.patient = True
        run.say(run.peers.decided(lambda: requeue_after(received)))
        return 128 + received, None
    return 0, Rest(teacher, plan, folder.checkpoint)


def _is_of(start: Start, path: Path) -> bool:
    """True for what was made of this checkpoint, and not of one before a run was made longer."""
    assert start.checkpoint is not None
    return path.exists() and path.stat().st_mtime >= start.checkpoint.stat().st_mtime


def _begin(folder: RunFolder, values: dict[str, Any], start: Start) -> None:
    folder.write_config(yaml.safe_dump(values, sort_keys=False))
    made_with = environment(best_device(this_process())) | {"command": typed_command()}
    folder.note_start(start.steps, made_with)


def _start(run: Run, values: dict[str, Any]) -> Start:
    folder, address = run.folder, run_address(run.config)
    if address is not None and folder.begun:
        run.say(f"{folder.path} is here; going on from it, not from {address}")
    elif address is not None:
        fetch(address, folder, values)
        run.say(f"{folder.path}: fetched from {address}")
    check_same_run(folder, values)
    return start_of(folder)


def _distil(
    run: Run, values: dict[str, Any], teacher: Teacher, plan: Plan, start: Start
) -> signal.Signals | None:
    """Train; the signal that has ended it, which all processes agree on."""
    folder, peers = run.folder, run.peers
    data, module, ema, samples, checkpoints = peers.each(lambda: _parts(run, teacher, plan))
    logger = peers.each(lambda: logger_of(run.config))
    accept = data.accept_changed
    peers.decided(lambda: check_start(start, module, accept_changed=accept))
    # Last, so that a refused run leaves nothing behind.
    peers.decided(lambda: _begin(folder, values, start))
    run.say(_headline(run, data, start))
    begin = time.monotonic()
    fit(
        module,
        data,
        run.trainer,
        start=start,
        folder=folder,
        ema=ema,
        samples=samples,
        checkpoints=checkpoints,
        signals=run.signals,
        peers=peers,
        logger=logger,
        saved=run.uploads.saved if run.uploads else None,
    )
    known = peers.gathered(run.signals.received)
    received = next((each for each in known if each is not None), None)
    if received is None:
        minutes, seconds = divmod(round(time.monotonic() - begin), 60)
        run.say(f"distilled in {minutes} min {seconds:02d} s")
    elif peers.process.first:
        steps = read_checkpoint(folder.checkpoint)["global_step"]
        run.say(
            f"saved {folder.checkpoint} at step {steps} after {received.name};"
            " the same command goes on",
        )
    return received


def _parts(
    run: Run, teacher: Teacher, plan: Plan
) -> tuple[ShardDataModule, Distillation, Ema, SampleGrid, CheckpointSettings]:
    config = run.config
    data = built(
        config.data,
        ShardDataModule,
        seed=run.seed,
        teacher=teacher,
        resolution=picture_resolution(config, teacher, plan),
    )
    data.accumulation(run.peers.process.world)
    speed = built(config.speed, SpeedSettings)
    begun = beginning(config, teacher, plan)
    module = distillation(config, teacher, plan, begun, speed=speed, data=data.fingerprint)
    ema = Ema(decay=config.ema_decay)
    samples = _sample_grid(run, teacher, plan, ema)
    return data, module, ema, samples, built(config.checkpoint, CheckpointSettings)


def _sample_grid(run: Run, teacher: Teacher, plan: Plan, ema: Ema) -> SampleGrid:
    own = run.config.samples
    return SampleGrid(
        run.folder.samples,
        prompts=from_texts(list(own.prompts), seed=own.seed),
        sampling=built(own.sampling, Sampling),
        every_n_steps=own.every_n_steps,
        before=lambda: cut(teacher, plan, init=run.config.method.init, seed=run.seed),
        ema=ema,
        peers=run.peers,
    )


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
