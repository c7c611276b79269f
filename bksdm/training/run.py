"""One training run: its folder, its Trainer, and how it goes on after an interruption."""

import csv
import logging
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from bksdm.atomic import replacing
from bksdm.data.datamodule import ShardDataModule
from bksdm.errors import InputError
from bksdm.processes import this_process
from bksdm.training.bad_samples import BadSamples
from bksdm.training.checkpoint import AtomicCheckpointIO, Checkpoints, read_checkpoint
from bksdm.training.distill import Distillation
from bksdm.training.ema import Ema
from bksdm.training.identity import check_identity
from bksdm.training.progress import Progress
from bksdm.training.samples import SampleGrid

_ADVICE = (
    ".*dataloader is not resumable.*",
    ".*does not have many workers.*",
    ".*directory .* exists and is not empty.*",
    ".*GPU available but not used.*",
    ".*LeafSpec.*",
    ".*smaller than the logging interval.*",
    ".*This DataLoader will create.*",
    ".*IterableDataset. has .__len__. defined.*",
)

PRECISIONS = ("32-true", "bf16-mixed")


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
        """Make the folder and write its configuration, all or nothing; the first process does."""
        if not this_process().first:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.config) as temporary:
            temporary.write_text(text)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that a resumed run starts from."""
        return self.path / "checkpoints" / "last.ckpt"

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
    def metrics(self) -> Path:
        """Everything that was logged."""
        return self.path / "metrics.csv"


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """What the Lightning Trainer is told; names are Lightning's but for the intervals, which are in
    optimiser steps.
    """

    max_steps: int
    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str
    precision: str
    log_every_n_steps: int
    validate_every_n_steps: int

    def __post_init__(self) -> None:
        for name in ("max_steps", "log_every_n_steps", "validate_every_n_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"trainer.{name}={getattr(self, name)}: expected at least 1")
        if self.precision not in PRECISIONS:
            # fp16 autocast would need its gradients unscaled before they are clipped.
            raise InputError(
                f"trainer.precision={self.precision}: expected {' or '.join(PRECISIONS)}"
            )
        devices = str(self.devices)
        if not devices.isdigit() or int(devices) < 1 or self.num_nodes < 1:
            raise InputError(
                f"trainer.devices={devices}, num_nodes={self.num_nodes}: expected numbers of at"
                " least 1"
            )
        world, started = int(devices) * self.num_nodes, this_process().world
        if world != started:
            raise InputError(
                f"trainer.devices={devices} x num_nodes={self.num_nodes}, but {started} processes"
                " were started; start one process a device, e.g. torchrun --nproc_per_node 2 -m"
                " bksdm.cli.main train trainer.devices=2 ..."
            )
        if world > 1 and self.accelerator != "cpu":
            raise InputError(
                f"trainer.devices={devices}, num_nodes={self.num_nodes}: several GPUs are not"
                " supported yet; use trainer.devices=1, or trainer.accelerator=cpu"
            )

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self.devices) * self.num_nodes


def steps_done(folder: RunFolder) -> int:
    """Optimiser steps that the run's last checkpoint holds; 0 without one."""
    return (
        int(read_checkpoint(folder.checkpoint)["global_step"]) if folder.checkpoint.exists() else 0
    )


def fit(
    module: Distillation,
    data: ShardDataModule,
    settings: TrainerSettings,
    *,
    folder: RunFolder,
    ema: Ema,
    samples: SampleGrid,
    checkpoints: Checkpoints,
) -> Signals | None:
    """Train until `max_steps` or a signal, from the last checkpoint if there is one; returns the
    signal.

    Raises:
        InputError: the checkpoint belongs to other data, another plan or another teacher.
    """
    saved = read_checkpoint(folder.checkpoint) if folder.checkpoint.exists() else None
    if saved:
        check_identity(
            saved["bksdm"],
            module.identity,
            checkpoint=folder.checkpoint,
            accept_changed=data.accept_changed,
        )
    progress = Progress(seconds=2 if sys.stdout.isatty() else 15, global_batch=data.global_batch)
    _quieten()
    loggers = _loggers(folder, first_step=saved["global_step"] if saved else 0)
    bad = BadSamples(
        max_fraction=data.max_bad_fraction,
        every_n_steps=settings.log_every_n_steps,
        global_batch=data.global_batch,
    )
    trainer = _trainer(settings, folder, loggers, [ema, bad, samples, progress, checkpoints])
    accumulation = data.accumulation(trainer.world_size)
    trainer.accumulate_grad_batches = accumulation
    trainer.val_check_interval = settings.validate_every_n_steps * accumulation
    folder.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    resumed = folder.checkpoint if saved else None
    del saved  # its weights are read again by the trainer
    try:
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    except SystemExit as error:
        raise KeyboardInterrupt from error  # Lightning's answer to a second Ctrl-C
    return checkpoints.received


def _loggers(folder: RunFolder, *, first_step: int) -> list[Logger]:
    if not this_process().first:
        return []
    kept = _metrics_until(folder, first_step)
    table = CSVLogger(folder.path, name="", version="")
    table.experiment.metrics.extend(kept)
    table.save()
    return [table, TensorBoardLogger(folder.path, name="", version="")]


def _trainer(
    settings: TrainerSettings,
    folder: RunFolder,
    loggers: list[Logger],
    callbacks: list[pl.Callback],
) -> pl.Trainer:
    try:
        return pl.Trainer(
            max_steps=settings.max_steps,
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy="ddp" if this_process().world > 1 else settings.strategy,
            precision=settings.precision,  # type: ignore[arg-type]
            log_every_n_steps=settings.log_every_n_steps,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            plugins=[AtomicCheckpointIO()],
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=folder.path,
            logger=loggers,
            callbacks=callbacks,
        )
    except MisconfigurationException as error:
        raise InputError(f"trainer settings: {' '.join(str(error).split())}") from error


def _metrics_until(folder: RunFolder, step: int) -> list[dict[str, Any]]:
    """What was logged up to a step: Lightning's CSV logger deletes the file of a resumed run.

    A copy stays beside it, should a kill come between deletion and rewriting.
    """
    copy = folder.metrics.with_suffix(".bak")
    current, copied = _csv_rows(folder.metrics), _csv_rows(copy)
    if len(current) >= len(copied) and folder.metrics.exists():
        shutil.copyfile(folder.metrics, copy)
    rows = max(current, copied, key=len)
    return [row for row in rows if int(row["step"]) < step]


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [
            {name: value for name, value in row.items() if name and value}
            for row in csv.DictReader(file)
        ]
    # A kill may have cut the last line off.
    return [row for row in rows if str(row.get("step", "")).isdigit()]


def _quieten() -> None:
    """Silence Lightning's advice that does not hold here: our loader is resumable, and workers are
    the user's choice.
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _ADVICE:
        warnings.filterwarnings("ignore", message=message)
