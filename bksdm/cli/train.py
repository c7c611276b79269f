"""bksdm train."""

import resource
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import UNet2DConditionModel
from omegaconf import DictConfig

from bksdm.cli.config import (
    built,
    differing_keys,
    logger_of,
    optional_number,
    plain,
    task_overrides,
)
from bksdm.cli.evaluate import compare_models
from bksdm.cli.start import start_processes
from bksdm.data.datamodule import ShardDataModule
from bksdm.errors import InputError
from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.prompts import from_texts
from bksdm.evaluation.shapes import ShapesProtocol
from bksdm.export.pipeline import export_student
from bksdm.losses.distill import LossWeights
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.processes import this_process
from bksdm.surgery.blocks import empty_student, feature_pairs, remove_blocks, student_config
from bksdm.surgery.plan import BlockPlan
from bksdm.training.checkpoint import load_student, read_checkpoint
from bksdm.training.distill import Distillation
from bksdm.training.ema import Ema
from bksdm.training.folder import RunFolder
from bksdm.training.optim import OptimizerSettings
from bksdm.training.peers import Peers, joined
from bksdm.training.run import Start, check_start, fit, start_of
from bksdm.training.samples import SampleGrid
from bksdm.training.saving import CheckpointSettings
from bksdm.training.signals import Signals
from bksdm.training.slurm import job_id, requeue_after, requeue_or_wait
from bksdm.training.speed import SpeedSettings
from bksdm.training.trainer import TrainerSettings

# What may change between start and resume: it changes where and how fast a run goes, not what it
# computes.
FREE = frozenset(
    {
        "runs_dir",
        "checkpoint",
        "samples",
        "protocol",
        "data.shards",  # may move: the index fingerprint in the checkpoint guards what they hold
        "data.validation_shards",
        "data.workers",
        "data.start_method",
        "data.batch_size",
        "data.cache",
        "data.max_bad_fraction",
        "data.accept_changed",
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.timeout_minutes",
        "trainer.peak_tflops",
        "trainer.log_every_n_steps",
        "trainer.validate_every_n_steps",
        "speed.channels_last",
        "speed.compile",
        "speed.attention",
        "speed.gradient_checkpointing",
        "speed.allreduce",
        "attention",
        "logger",
    }
)
_PACKAGES = ("bksdm", "torch", "diffusers", "transformers", "pytorch-lightning")


def run(config: DictConfig) -> int:
    """Cut, distil, export, evaluate; each part is skipped if it is done."""
    settings = built(config.trainer, TrainerSettings)
    process = this_process()
    count = settings.to_start(process)
    if count > 1:
        return start_processes(["train", *task_overrides()], count=count)
    folder = RunFolder(Path(config.runs_dir) / str(config.name))
    with Signals() as signals:
        try:
            with joined(process, gpu=settings.gpu, minutes=settings.timeout_minutes) as peers:
                return _run(config, settings, folder=folder, signals=signals, peers=peers)
        except SystemExit:  # a signal before or after the training: there is nothing to save
            assert signals.received is not None
            signals.patient = True
            told = requeue_or_wait(signals.received, first=process.first)
            if told:
                print(told, flush=True)
            raise


def _run(
    config: DictConfig,
    settings: TrainerSettings,
    *,
    folder: RunFolder,
    signals: Signals,
    peers: Peers,
) -> int:
    values = plain(config)
    start = peers.decided(lambda: _start(folder, values))
    source, plan = built(config.teacher, TeacherSource), built(config.student, BlockPlan)
    if (
        start.steps >= settings.max_steps
        and folder.student.exists()
        and (folder.results.exists() or not config.protocol)
    ):
        _say(peers, f"{folder.path} is finished: {start.steps} steps; student in {folder.student}")
        return 0
    teacher = load_teacher(source)
    if start.steps < settings.max_steps:
        _distil(config, values, teacher, plan, settings, start, folder, signals, peers)
        received = signals.received
        if received is not None:  # all processes have saved
            signals.patient = True
            _say(peers, peers.decided(lambda: requeue_after(received)))
            return 128 + received
    if peers.process.first:
        _finish(config, teacher, plan, folder)
    return 0


def _start(folder: RunFolder, values: dict[str, Any]) -> Start:
    check_same_run(folder, values)
    return start_of(folder)


def _finish(config: DictConfig, teacher: Teacher, plan: BlockPlan, folder: RunFolder) -> None:
    """Export the averaged student, and evaluate it."""
    teacher.to("cpu")  # where the exported folder is compared
    student = load_student(folder.checkpoint)
    export_student(teacher, student, folder.student)
    print(
        f"student: {folder.student} (a diffusers folder, averaged weights, reloaded and compared)"
    )
    if config.protocol:
        before = cut(teacher, plan, init=config.method.init, seed=config.seed)
        unets = {"teacher": teacher.unet, "student before": before, "student after": student}
        compare_models(unets, teacher, built(config.protocol, ShapesProtocol), out=folder.results)
    print(f"peak memory: {peak_memory()}")
    grids = sorted(folder.samples.glob("step_*.png"))
    if grids:
        print(f"picture: {grids[-1]}")


def _say(peers: Peers, text: str | None) -> None:
    if text and peers.process.first:
        print(text, flush=True)


def check_same_run(folder: RunFolder, values: dict[str, Any]) -> None:
    """Refuse to go on with a run that has another configuration.

    Raises:
        InputError: with the differing keys.
    """
    if folder.config.exists() and folder.checkpoint.exists():
        old = yaml.safe_load(folder.config.read_text())
        keys = differing_keys(old, values, free=FREE)
        if keys:
            raise InputError(
                f"run {folder.path} was started with other settings: {', '.join(keys)}; use another"
                f" name=, or the old values in {folder.config}"
            )


def cut(teacher: Teacher, plan: BlockPlan, *, init: str, seed: int) -> UNet2DConditionModel:
    """The student before training; with init="random", weights are a function of the seed."""
    if init == "teacher":
        return remove_blocks(teacher.unet, plan=plan)
    if init != "random":
        raise InputError(f"method.init={init}: expected teacher or random")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return empty_student(teacher.unet.config, plan)


def _distil(
    config: DictConfig,
    values: dict[str, Any],
    teacher: Teacher,
    plan: BlockPlan,
    settings: TrainerSettings,
    start: Start,
    folder: RunFolder,
    signals: Signals,
    peers: Peers,
) -> None:
    data = built(
        config.data,
        ShardDataModule,
        seed=config.seed,
        teacher=teacher,
        resolution=picture_resolution(config, teacher, plan),
    )
    data.accumulation(peers.process.world)
    speed = built(config.speed, SpeedSettings)
    module = distillation(config, teacher, plan, speed=speed, data=data.fingerprint)
    ema = Ema(decay=config.ema_decay)
    samples = SampleGrid(
        folder.samples,
        prompts=from_texts(list(config.samples.prompts), seed=config.samples.seed),
        sampling=built(config.samples.sampling, Sampling),
        every_n_steps=config.samples.every_n_steps,
        before=lambda: cut(teacher, plan, init=config.method.init, seed=config.seed),
        ema=ema,
        peers=peers,
    )
    checkpoints = built(config.checkpoint, CheckpointSettings)
    accept = data.accept_changed
    peers.decided(lambda: check_start(start, module, accept_changed=accept))
    with ExitStack() as claim:
        # Last, so that a refused run leaves nothing behind.
        peers.decided(lambda: _claim(claim, folder, values))
        _say(peers, _headline(data, peers.process.world, start, folder, settings.max_steps))
        begin = time.monotonic()
        fit(
            module,
            data,
            settings,
            start=start,
            folder=folder,
            ema=ema,
            samples=samples,
            checkpoints=checkpoints,
            signals=signals,
            peers=peers,
            logger=logger_of(config),
        )
    if signals.received is None:
        minutes, seconds = divmod(round(time.monotonic() - begin), 60)
        _say(peers, f"distilled in {minutes} min {seconds:02d} s")
    elif peers.process.first:
        steps = read_checkpoint(folder.checkpoint)["global_step"]
        _say(
            peers,
            f"saved {folder.checkpoint} at step {steps} after {signals.received.name};"
            " the same command goes on",
        )


def _claim(claim: ExitStack, folder: RunFolder, values: dict[str, Any]) -> None:
    claim.enter_context(folder.claimed(seconds=60 if job_id() else 0))
    folder.write_config(yaml.safe_dump(values, sort_keys=False))


def _headline(
    data: ShardDataModule, world: int, start: Start, folder: RunFolder, max_steps: int
) -> str:
    begin = (
        f"resuming at step {start.steps} from {start.checkpoint}" if start.steps else "from step 0"
    )
    micro = f"{world} x {data.batch_size} x {data.accumulation(world)}"
    return (
        f"{folder.path}: {data.description}; batch {data.global_batch} (processes x batch_size x"
        f" accumulation: {micro}); {begin} of {max_steps}"
    )


def distillation(
    config: DictConfig,
    teacher: Teacher,
    plan: BlockPlan,
    *,
    speed: SpeedSettings,
    data: dict[str, Any],
) -> Distillation:
    """The module of a run on data of this fingerprint."""
    method = config.method
    return Distillation(
        cut(teacher, plan, init=method.init, seed=config.seed),
        teacher,
        pairs=feature_pairs(plan, teacher.unet.config),
        weights=built(method.weights, LossWeights),
        optimizer=built(config.optimizer, OptimizerSettings),
        normalise_features=method.normalise_features,
        min_snr_gamma=method.min_snr_gamma,
        gradient_clip=method.gradient_clip,
        speed=speed,
        identity={
            "plan": plan.to_json(),
            "student_config": student_config(teacher.unet.config, plan),
            "teacher": teacher.source.identity,
            "data": data,
            "versions": {name: version(name) for name in _PACKAGES},
        },
    )


def picture_resolution(config: DictConfig, teacher: Teacher, plan: BlockPlan) -> int:
    """Pixels of a side: those that are wanted, else the teacher's own.

    Raises:
        InputError: VAE and U-Net cannot halve them as often as they do.
    """
    unit = teacher.latent_factor * 2 ** (plan.stages - 1)
    wanted = optional_number(config, "data.resolution", least=1)
    resolution = wanted or teacher.picture_size
    if resolution < unit or resolution % unit:
        raise InputError(
            f"data.resolution={resolution}: expected a multiple of {unit}, as the VAE and "
            f"{plan.stages} stages halve it"
        )
    return int(resolution)


def peak_memory() -> str:
    """The most memory that this process has held so far, and on the GPU if there is one."""
    own = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    if not torch.cuda.is_available():
        return own
    return f"{own}, on the GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
