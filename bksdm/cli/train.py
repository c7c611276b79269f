"""bksdm train."""

import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import UNet2DConditionModel
from omegaconf import DictConfig

from bksdm.cli.config import built, differing_keys, optional_number, plain
from bksdm.cli.evaluate import compare_models
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
from bksdm.training.checkpoint import Checkpoints, load_student
from bksdm.training.distill import Distillation
from bksdm.training.ema import Ema
from bksdm.training.optim import OptimizerSettings
from bksdm.training.run import RunFolder, TrainerSettings, fit, steps_done
from bksdm.training.samples import SampleGrid

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
        "trainer.log_every_n_steps",
        "trainer.validate_every_n_steps",
        "method.gradient_checkpointing",
    }
)
_PACKAGES = ("bksdm", "torch", "diffusers", "transformers", "pytorch-lightning")


def run(config: DictConfig) -> int:
    """Cut, distil, export, evaluate; each part is skipped if it is done."""
    settings = built(config.trainer, TrainerSettings)
    folder = RunFolder(Path(config.runs_dir) / config.name)
    values = plain(config)
    check_same_run(folder, values)
    source, plan = built(config.teacher, TeacherSource), built(config.student, BlockPlan)
    done = steps_done(folder)
    if (
        done >= settings.max_steps
        and folder.student.exists()
        and (folder.results.exists() or not config.protocol)
    ):
        print(f"{folder.path} is finished: {done} steps; student in {folder.student}")
        return 0
    teacher = load_teacher(source)
    if done < settings.max_steps:
        code = _distil(config, values, teacher, plan, settings=settings, folder=folder)
        if code:
            return code
    if not this_process().first:
        return 0
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
    return 0


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
    *,
    settings: TrainerSettings,
    folder: RunFolder,
) -> int:
    data = built(
        config.data,
        ShardDataModule,
        seed=config.seed,
        teacher=teacher,
        resolution=_resolution(config, teacher, plan),
    )
    data.accumulation(settings.world)
    module = _module(config, teacher, plan, data)
    ema = Ema(decay=config.ema_decay)
    samples = SampleGrid(
        folder.samples,
        prompts=from_texts(list(config.samples.prompts), seed=config.samples.seed),
        sampling=built(config.samples.sampling, Sampling),
        every_n_steps=config.samples.every_n_steps,
        before=lambda: cut(teacher, plan, init=config.method.init, seed=config.seed),
        ema=ema,
    )
    checkpoints = Checkpoints(folder.checkpoint, **plain(config.checkpoint))
    # Last, so that a refused run leaves nothing behind.
    folder.write_config(yaml.safe_dump(values, sort_keys=False))
    if this_process().first:
        print(_headline(data, settings, folder))
    begin = time.monotonic()
    received = fit(
        module, data, settings, folder=folder, ema=ema, samples=samples, checkpoints=checkpoints
    )
    if not this_process().first:
        return 0 if received is None else 128 + received
    if received is None:
        minutes, seconds = divmod(round(time.monotonic() - begin), 60)
        print(f"distilled in {minutes} min {seconds:02d} s")
        return 0
    print(
        f"saved {folder.checkpoint} at step {steps_done(folder)} after {received.name}; "
        "the same command goes on"
    )
    return 128 + received


def _headline(data: ShardDataModule, settings: TrainerSettings, folder: RunFolder) -> str:
    done = steps_done(folder)
    start = f"resuming at step {done} from {folder.checkpoint}" if done else "from step 0"
    micro = f"{settings.world} x {data.batch_size} x {data.accumulation(settings.world)}"
    return (
        f"{folder.path}: {data.description}; batch {data.global_batch} (processes x batch_size x"
        f" accumulation: {micro}); {start} of {settings.max_steps}"
    )


def _module(
    config: DictConfig, teacher: Teacher, plan: BlockPlan, data: ShardDataModule
) -> Distillation:
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
        gradient_checkpointing=method.gradient_checkpointing,
        identity={
            "plan": plan.to_json(),
            "student_config": student_config(teacher.unet.config, plan),
            "teacher": teacher.source.identity,
            "data": data.fingerprint,
            "versions": {name: version(name) for name in _PACKAGES},
        },
    )


def _resolution(config: DictConfig, teacher: Teacher, plan: BlockPlan) -> int:
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
