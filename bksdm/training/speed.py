"""Speed switches: how a step is computed, not what it computes. docs/performance.md has a sentence
for each.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Final

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from bksdm import expected
from bksdm.errors import InputError
from bksdm.models.teacher import Teacher

PRECISIONS: Final = ("float32", "bfloat16")
COMPILE_MODES: Final = (
    "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs",
)  # fmt: skip
CUDA_GRAPHS: Final = ("reduce-overhead", "max-autotune")
BACKENDS: Final = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """The defaults switch everything off.

    Attributes:
        teacher_precision: of the frozen networks' weights and of their computation, "float32" or
            "bfloat16". In bfloat16 the teacher runs outside autocast, without casts.
        channels_last: memory format of the U-Nets' convolutions.
        compile: a mode of torch.compile for teacher and student, features included; None for eager.
        attention: "auto" leaves the kernel of scaled dot product attention to torch, or "flash",
            "efficient", "cudnn", "math", or "xformers" in its place.
        gradient_checkpointing: the student's activations are computed twice instead of kept.
        allreduce: precision in which the processes' gradients are averaged.
    """

    teacher_precision: str = "float32"
    channels_last: bool = False
    compile: str | None = None
    attention: str = "auto"
    gradient_checkpointing: bool = False
    allreduce: str = "float32"

    def __post_init__(self) -> None:
        expected.one_of("speed.teacher_precision", self.teacher_precision, PRECISIONS)
        expected.one_of("speed.allreduce", self.allreduce, PRECISIONS)
        expected.one_of("attention", self.attention, ("auto", *BACKENDS, "xformers"))
        if self.attention == "xformers" and not torch.cuda.is_available():
            raise InputError("attention=xformers needs a CUDA GPU; use attention=auto")
        if self.attention == "xformers" and find_spec("xformers") is None:
            raise InputError(
                "attention=xformers needs xformers: pip install 'bksdm[xformers]', or use"
                " attention=auto"
            )
        if self.compile is not None:
            expected.one_of("speed.compile", self.compile, COMPILE_MODES)
        for name in ("channels_last", "gradient_checkpointing"):
            expected.switch(f"speed.{name}", getattr(self, name))

    @property
    def teacher_dtype(self) -> torch.dtype:
        """Of the frozen networks."""
        return torch.bfloat16 if self.teacher_precision == "bfloat16" else torch.float32

    @property
    def cuda_graphs(self) -> bool:
        """Whether compiled networks are replayed as CUDA graphs, each in memory of its own that the
        next step writes over.
        """
        return self.compile in CUDA_GRAPHS

    def check_accumulation(self, micro_batches: int) -> None:
        """Gradients of a CUDA graph lie in memory that the next micro-batch writes over.

        Raises:
            InputError: there are several micro-batches a step.
        """
        if self.cuda_graphs and micro_batches > 1:
            raise InputError(
                f"speed.compile={self.compile} with {micro_batches} micro-batches a step: its CUDA"
                " graphs take one; use speed.compile=default, or a data.batch_size that fills"
                " data.global_batch"
            )

    def frozen(self, teacher: Teacher, device: torch.device) -> Teacher:
        """The teacher as the steps use it. Where that loses precision it is a copy: the exported
        folder gets the original's VAE and text encoder.
        """
        names = ("unet", "vae", "text_encoder")
        if self.teacher_dtype != torch.float32:
            copies = {name: copy.deepcopy(getattr(teacher, name)) for name in names}
            teacher = replace(teacher, **copies)
        teacher.to(device, dtype=self.teacher_dtype)
        self.lay_out(teacher.unet)
        return teacher

    def lay_out(self, unet: UNet2DConditionModel) -> None:
        """Memory format and attention of a U-Net, in place; weights and their names stay."""
        if self.channels_last:
            unet.to(memory_format=torch.channels_last)
        if self.attention == "xformers":
            unet.enable_xformers_memory_efficient_attention()

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Attention takes the chosen kernel inside this block.

        Raises:
            InputError: the kernel does not take this device, precision or head size.
        """
        if self.attention not in BACKENDS:
            yield
            return
        try:
            with sdpa_kernel(BACKENDS[self.attention]):
                yield
        except RuntimeError as error:
            if not any(sign in str(error) for sign in ("No available kernel", "No viable backend")):
                raise
            raise InputError(
                f"attention={self.attention}: no such kernel for this device, precision or head"
                " size; use attention=auto"
            ) from error

    def average_gradients(self, wrapped: nn.Module | None) -> None:
        """Tell DistributedDataParallel in which precision; of anything else, nothing."""
        if self.allreduce == "bfloat16" and isinstance(wrapped, DistributedDataParallel):
            wrapped.register_comm_hook(None, bf16_compress_hook)


def share_out(student: UNet2DConditionModel, mesh: DeviceMesh) -> None:
    """FSDP2, in place: each process keeps its share of the weights, block by block."""
    for block in (*student.down_blocks, student.mid_block, *student.up_blocks):
        if block is not None:
            fully_shard(block, mesh=mesh)
    fully_shard(student, mesh=mesh)
