"""bksdm train."""

from typing import Any

from omegaconf import DictConfig

from bksdm.cli.config import built, plain
from bksdm.cli.expert import settled, student_plan
from bksdm.cli.finish import Rest, finish
from bksdm.cli.hub import hub_uploads
from bksdm.cli.resume import fetch, resumed, run_address
from bksdm.cli.running import Parts, Run, made_of, running, trained
from bksdm.cli.same_run import check_same_run
from bksdm.cli.student import beginning, check_method, cut, distillation, picture_resolution
from bksdm.data.datamodule import ShardDataModule
from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.prompts import from_texts
from bksdm.export.folder import ExportSettings
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.processes import this_process
from bksdm.surgery.plans import Plan
from bksdm.training.ema import Ema
from bksdm.training.folder import RunFolder
from bksdm.training.hub import HubUploads
from bksdm.training.run import Start, start_of
from bksdm.training.samples import SampleGrid
from bksdm.training.saving import CheckpointSettings
from bksdm.training.speed import SpeedSettings


def run(config: DictConfig) -> int:
    """Cut, distil, export, evaluate; each part is skipped if it is done."""
    config = settled(resumed(config))
    check_method(config)
    return running("train", config, _trained, _finish, uploads=_uploads)


def _uploads(config: DictConfig, folder: RunFolder) -> HubUploads | None:
    return hub_uploads(config, folder, first=this_process().first)


def _finish(run: Run, rest: Rest) -> None:
    finish(run.config, run.folder, rest, gpu=run.trainer.gpu)


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
    done = start.steps >= run.trainer.max_steps
    made = [folder.student / "model_index.json", *[folder.results] * bool(config.protocol)]
    if done and all(made_of(start, path) for path in made):
        run.say(f"{folder.path} is finished: {start.steps} steps; student in {folder.student}")
        return 0, None
    teacher = run.peers.each(lambda: load_teacher(source))
    if start.checkpoint is not None and done:
        return 0, Rest(teacher, plan, start.checkpoint)
    parts = run.peers.each(lambda: _parts(run, teacher, plan))
    code = trained(run, parts, start, values)
    return code, None if code else Rest(teacher, plan, folder.checkpoint)


def _start(run: Run, values: dict[str, Any]) -> Start:
    folder, address = run.folder, run_address(run.config)
    if address is not None and folder.begun:
        run.say(f"{folder.path} is here; going on from it, not from {address}")
    elif address is not None:
        fetch(address, folder, values)
        run.say(f"{folder.path}: fetched from {address}")
    check_same_run(folder, values)
    return start_of(folder)


def _parts(run: Run, teacher: Teacher, plan: Plan) -> Parts:
    config = run.config
    data = built(
        config.data,
        ShardDataModule,
        seed=run.seed,
        teacher=teacher,
        resolution=picture_resolution(config, teacher, plan),
    )
    speed = built(config.speed, SpeedSettings)
    speed.check_accumulation(data.accumulation(run.peers.process.world))
    begun = beginning(config, teacher, plan)
    module = distillation(config, teacher, plan, begun, speed=speed, data=data.fingerprint)
    ema = Ema(decay=config.ema_decay)
    return Parts(
        data=data,
        module=module,
        ema=ema,
        samples=_sample_grid(run, teacher, plan, ema),
        checkpoints=built(config.checkpoint, CheckpointSettings),
        done="distilled",
    )


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
