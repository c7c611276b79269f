"""Lightning's Trainer from settings, for the processes that were started."""

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy

from bksdm import expected
from bksdm.errors import InputError
from bksdm.processes import Process
from bksdm.training.checkpoint import checkpoint_io
from bksdm.training.peers import StartedOutside
from bksdm.training.speed import SpeedSettings
from bksdm.training.throughput import Fetching

PRECISIONS = ("32-true", "bf16-mixed")
STRATEGIES = ("ddp", "fsdp2")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """What the Lightning Trainer is told; names are Lightning's but for the intervals, which are in
    optimiser steps.

    Attributes:
        devices: processes on a node; None for as many as were started (else one), "auto" for one a
            GPU.
        num_nodes: None for as many as were started.
        strategy: what several processes do: "ddp" keeps the student whole in each, "fsdp2" keeps a
            share of weights, gradients and moments in each.
        timeout_minutes: how long the processes wait for each other.
        peak_tflops: of one device, where the table (`models.devices`) does not know it.
    """

    max_steps: int
    accelerator: str
    precision: str
    log_every_n_steps: int
    validate_every_n_steps: int
    devices: int | str | None = None
    num_nodes: int | None = None
    strategy: str = "ddp"
    timeout_minutes: float = 30
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "log_every_n_steps", "validate_every_n_steps"):
            expected.count(f"trainer.{name}", getattr(self, name), least=1)
        expected.number("trainer.timeout_minutes", self.timeout_minutes, above=0)
        if self.peak_tflops is not None:
            expected.number("trainer.peak_tflops", self.peak_tflops, above=0)
        # fp16 autocast would need its gradients unscaled before they are clipped.
        expected.one_of("trainer.precision", self.precision, PRECISIONS)
        expected.one_of("trainer.accelerator", self.accelerator, ACCELERATORS)
        expected.one_of("trainer.strategy", self.strategy, STRATEGIES)
        if self.gpu and not torch.cuda.is_available():
            raise InputError(
                f"trainer.accelerator={self.accelerator}, but torch {torch.__version__} finds no"
                " GPU; use trainer=cpu, or install a CUDA build of torch"
            )
        for name, words in (("devices", (None, "auto")), ("num_nodes", (None,))):
            value = getattr(self, name)
            if value not in words and not (str(value).isdigit() and int(value) > 0):
                raise InputError(f"trainer.{name}={value}: expected a number, at least 1")

    @property
    def gpu(self) -> bool:
        """True if the run computes on CUDA devices."""
        if self.accelerator == "auto":
            return torch.cuda.is_available()
        return self.accelerator in ("gpu", "cuda")

    def to_start(self, process: Process) -> int:
        """Processes that are still to be started on this node: more than 1 if it is alone and the
        settings ask for several.

        Raises:
            InputError: other processes were started than the settings say.
        """
        there = torch.cuda.device_count() if self.gpu else None
        if process.world == 1:
            if (self.num_nodes or 1) > 1:
                raise InputError(
                    f"trainer.num_nodes={self.num_nodes}, but one process was started; several"
                    " nodes need torchrun or srun (docs/cluster.md)"
                )
            wanted = (there or 1) if self.devices == "auto" else int(self.devices or 1)
            if there is not None and wanted > there:
                raise InputError(f"trainer.devices={wanted}, but this machine has {there} GPUs")
            return wanted
        on_node = process.world // process.nodes
        said = {"devices": (self.devices, on_node), "num_nodes": (self.num_nodes, process.nodes)}
        for name, (value, started) in said.items():
            if value not in (None, "auto", started, str(started)):
                raise InputError(
                    f"trainer.{name}={value}, but {process.world} processes on {process.nodes}"
                    f" nodes were started; leave it out, or start {value}"
                )
        return 1


def check_together(settings: TrainerSettings, speed: SpeedSettings) -> None:
    """Refuse what each allows alone.

    Raises:
        InputError: FSDP2 with a memory format that it does not share out.
    """
    if settings.strategy == "fsdp2" and speed.channels_last:
        raise InputError(
            "trainer.strategy=fsdp2 shares out no weights in channels_last; use"
            " speed.channels_last=false (trainer=gpu and trainer=ddp set it)"
        )


def placed(process: Process, *, visible: int | None) -> Process:
    """Where a scheduler lets each process see one GPU alone, each is a node of its own to
    Lightning, which would look for the others' GPUs.

    Args:
        process: as it was started.
        visible: GPUs that it sees; None on the CPU.
    """
    if visible == 1 and process.world > process.nodes:
        return Process(process.rank, process.world, local_rank=0, nodes=process.world)
    return process


def build_trainer(
    settings: TrainerSettings,
    process: Process,
    *,
    fetching: Fetching,
    background_saves: bool,
    **arguments: Any,
) -> pl.Trainer:
    """The Trainer of one process.

    Raises:
        InputError: Lightning does not take the settings.
    """
    process = placed(process, visible=torch.cuda.device_count() if settings.gpu else None)
    strategy: Any = "auto"
    if process.world > 1 and settings.strategy == "fsdp2":
        strategy = ModelParallelStrategy(
            data_parallel_size=process.world,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,  # one file, which any number of processes resumes
        )
    elif process.world > 1:
        # Students use all their weights in every step; a bucket is a view, not a second copy.
        strategy = DDPStrategy(gradient_as_bucket_view=True)
    try:
        trainer = pl.Trainer(
            max_steps=settings.max_steps,
            accelerator=settings.accelerator,
            devices=process.world // process.nodes,
            num_nodes=process.nodes,
            strategy=strategy,
            precision=settings.precision,  # type: ignore[arg-type]
            log_every_n_steps=settings.log_every_n_steps,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            profiler=fetching,
            plugins=[checkpoint_io(background=background_saves), StartedOutside(process)],
            **arguments,
        )
    except MisconfigurationException as error:
        raise InputError(f"trainer settings: {' '.join(str(error).split())}") from error
    # One party heeds signals (training.signals), and its agreement needs no GPU: Lightning's
    # handler would broadcast in the middle of a step, and its agreement waits for the GPU before
    # each micro-batch.
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]  # noqa: SLF001
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]  # noqa: SLF001
    return trainer


def _nothing() -> None:
    """In place of a Lightning hook."""
