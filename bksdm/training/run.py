"""One training run: its Trainer and all that watches it, from wherever it was interrupted."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning.loggers import Logger

from bksdm.data.datamodule import ShardDataModule
from bksdm.models.cost import step_flops, unet_module_cost
from bksdm.models.devices import peak_tflops
from bksdm.training.bad_samples import BadSamples
from bksdm.training.checkpoint import newest_checkpoint, read_checkpoint
from bksdm.training.distill import Distillation
from bksdm.training.ema import Ema
from bksdm.training.folder import RunFolder
from bksdm.training.held import held_zeros
from bksdm.training.identity import check_identity
from bksdm.training.loggers import run_loggers
from bksdm.training.peers import Peers, lost_told
from bksdm.training.progress import Progress
from bksdm.training.samples import SampleGrid
from bksdm.training.saving import Checkpoints, CheckpointSettings
from bksdm.training.signals import Signals
from bksdm.training.telemetry import Telemetry, Utilisation
from bksdm.training.throughput import Fetching, Throughput
from bksdm.training.trainer import TrainerSettings, build_trainer

_ADVICE = (
    ".*dataloader is not resumable.*",
    ".*does not have many workers.*",
    ".*directory .* exists and is not empty.*",
    ".*GPU available but not used.*",
    ".*LeafSpec.*",
    ".*dirpath has changed.*",
    ".*`srun` command is available.*",
    ".*smaller than the logging interval.*",
    ".*This DataLoader will create.*",
    ".*IterableDataset. has .__len__. defined.*",
)


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        steps: optimiser steps that are done.
        checkpoint: that holds them; None at step 0.
    """

    steps: int = 0
    checkpoint: Path | None = None


def start_of(folder: RunFolder, *, put_aside: bool = True) -> Start:
    """From the newest checkpoint that can be read (see `newest_checkpoint`). The first process
    alone may look.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    path = newest_checkpoint(folder.checkpoint, put_aside=put_aside)
    return Start() if path is None else Start(int(read_checkpoint(path)["global_step"]), path)


def check_start(start: Start, module: Distillation, *, accept_changed: bool) -> None:
    """Refuse a checkpoint of other data, another plan or another teacher.

    Raises:
        InputError: says what has changed.
    """
    if start.checkpoint is None:
        return
    saved = read_checkpoint(start.checkpoint)["bksdm"]
    check_identity(
        saved, module.identity, checkpoint=start.checkpoint, accept_changed=accept_changed
    )


def fit(
    module: Distillation,
    data: ShardDataModule,
    settings: TrainerSettings,
    *,
    start: Start,
    folder: RunFolder,
    ema: Ema,
    samples: SampleGrid,
    checkpoints: CheckpointSettings,
    signals: Signals,
    peers: Peers,
    logger: Callable[[], Logger] | None = None,
    saved: Callable[[int], None] | None = None,
) -> None:
    """Train until `max_steps`, or until `signals` has received one; `saved` is told of checkpoints.

    Raises:
        InputError: the data or the settings end the run.
        LostProcessError: another process has gone.
    """
    _quieten()
    fetching = Fetching()
    first = peers.process.first
    loggers = run_loggers(folder.path, first_step=start.steps, extra=logger) if first else []
    telemetry = _telemetry(module, data, settings, fetching=fetching, folder=folder, peers=peers)
    last = Checkpoints(
        folder.checkpoints,
        checkpoints,
        validate_every_n_steps=settings.validate_every_n_steps,
        signals=signals,
        peers=peers,
        telemetry=telemetry,
        saved=saved,
    )
    best = checkpoints.best_callback(folder.checkpoints)
    progress = Progress(seconds=2 if sys.stdout.isatty() else 15, telemetry=telemetry)
    bad = _bad_samples(data, settings, peers=peers)
    trainer = build_trainer(
        settings,
        peers.process,
        fetching=fetching,
        background_saves=checkpoints.background,
        default_root_dir=folder.path,
        logger=loggers,
        callbacks=[ema, *held_zeros(module, ema), bad, telemetry, samples, progress, *best, last],
    )
    trainer.accumulate_grad_batches = data.accumulation(trainer.world_size)
    trainer.val_check_interval = settings.validate_every_n_steps * trainer.accumulate_grad_batches
    with _patience(signals), lost_told():
        trainer.fit(module, data, ckpt_path=start.checkpoint, weights_only=True)
        trainer.strategy.checkpoint_io.teardown()  # not every strategy does


def _telemetry(
    module: Distillation,
    data: ShardDataModule,
    settings: TrainerSettings,
    *,
    fetching: Fetching,
    folder: RunFolder,
    peers: Peers,
) -> Telemetry:
    return Telemetry(
        every_n_steps=settings.log_every_n_steps,
        throughput=Throughput(fetching, global_batch=data.global_batch),
        utilisation=utilisation(module, data.resolution, settings),
        peers=peers,
        report=folder.non_finite,
        samples_of=data.samples_of,
        facts={"seed": data.seed, "global_batch": data.global_batch, "run": str(folder.path)},
    )


def _bad_samples(data: ShardDataModule, settings: TrainerSettings, *, peers: Peers) -> BadSamples:
    return BadSamples(
        max_fraction=data.max_bad_fraction,
        every_n_steps=settings.log_every_n_steps,
        global_batch=data.global_batch,
        peers=peers,
    )


def utilisation(module: Distillation, resolution: int, settings: TrainerSettings) -> Utilisation:
    """FLOPs of an image at `resolution` pixels, and the peak of the device that computes them."""
    side = resolution // module.teacher.latent_factor
    tokens = module.teacher.tokenizer.model_max_length
    macs = [
        unet_module_cost(unet, side, tokens=tokens).total.macs
        for unet in (module.teacher.unet, module.student)
    ]
    name = torch.cuda.get_device_name() if settings.gpu else ""
    return Utilisation(
        step_flops(*macs),
        peak_tflops(name, precision=settings.precision, override=settings.peak_tflops),
    )


@contextmanager
def _patience(signals: Signals) -> Iterator[None]:
    """Signals wait for a step's end inside this block."""
    signals.patient = True
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error  # Lightning's answer to a second Ctrl-C
    finally:
        signals.patient = False


def _quieten() -> None:
    """Silence Lightning's advice that does not hold here: our loader is resumable, and workers are
    the user's choice.
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _ADVICE:
        warnings.filterwarnings("ignore", message=message)
