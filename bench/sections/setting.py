"""At which size the sections of `bench.gpu` run: Stable Diffusion's on a GPU, or a toy on the CPU
that takes the same paths.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import torch

from bench.cases import Step
from bench.runners import Bench
from bench.world import WORLDS, World
from bksdm.batch import TextImageBatch
from bksdm.export.pipeline import assemble
from bksdm.models.cost import step_flops, unet_module_cost
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.surgery.blocks import remove_blocks
from bksdm.surgery.plan import BASE, BlockPlan

IN_MEMORY: Final = 2  # batches, taken in turn


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """A size.

    Attributes:
        world: teacher, student and batch.
        folder: where the teacher lies once it was made: making random weights takes longer than
            reading them.
        device: where it runs.
        batches: samples a step that are tried.
        steps: that are timed.
        reference: batches of the reference recipe.
        run: optimiser steps of the run through the trainer.
        pictures: that are drawn for it.
        attention: (head size, query tokens, key tokens, heads, rows) of the attention calls.
        sampling: (solver steps, pictures at once) of generation.
        matmul: side of the matrices whose product is the measure of all rates.
        teacher_steps: of the embedded teacher's training; None for what the time allows.
        widths: of that teacher's four stages.
        teacher_pictures: that it is trained on.
        teacher_batch: of its training.
        prompts: that it is scored on.
    """

    world: World
    folder: Path = Path("teacher")
    device: torch.device
    batches: tuple[int, ...]
    steps: int
    reference: tuple[int, ...]
    run: int
    pictures: int
    attention: tuple[tuple[int, int, int, int, int], ...]
    sampling: tuple[int, int]
    matmul: int
    teacher_steps: int | None
    widths: tuple[int, ...] = (64, 96, 80, 80)
    teacher_pictures: int
    teacher_batch: int
    prompts: int

    @property
    def source(self) -> TeacherSource:
        """Where the teacher is read from."""
        return replace(self.world.source(), path=str(self.folder), weights="pretrained")

    @cached_property
    def teacher(self) -> Teacher:
        """On the CPU."""
        if not self.folder.exists():
            made, new = load_teacher(self.world.source()), self.folder.with_suffix(".new")
            assemble(made, made.unet).save_pretrained(new)
            new.rename(self.folder)
        return load_teacher(self.source)

    @cache  # noqa: B019 - there is one setting
    def flops(self, plan: BlockPlan) -> int:
        """Useful ones of a step, for each picture."""
        teacher, tokens = self.teacher, self.teacher.tokenizer.model_max_length
        networks = (teacher.unet, remove_blocks(teacher.unet, plan=plan))
        return step_flops(*[unet_module_cost(each, tokens=tokens).total.macs for each in networks])

    @property
    def precision(self) -> torch.dtype:
        """Of matrix products."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def bench(self, *, batch: int, plan: BlockPlan = BASE) -> Bench:
        """What the runners of `bench.runners` share, without shards."""
        return Bench(replace(self.world, plan=plan, batch=batch), self.teacher, None, self.device)

    def batches_in_memory(self, batch: int, *, pictures: bool) -> Iterator[TextImageBatch]:
        """Random batches, over and over: in front of a step that is timed nothing is read."""
        teacher, rng = self.teacher, torch.Generator().manual_seed(0)
        side = teacher.picture_size
        shape = (2 * teacher.vae.config.latent_channels, *[side // teacher.latent_factor] * 2)
        length = teacher.tokenizer.model_max_length

        def made(number: int) -> TextImageBatch:
            data = {
                "pixels": torch.rand(batch, 3, side, side, generator=rng) * 2 - 1
            } if pictures else {
                "moments": torch.randn(batch, *shape, generator=rng).clamp(-3, 3).half()
            }  # fmt: skip
            tokens = torch.randint(len(teacher.tokenizer), (batch, length), generator=rng)
            seeds = torch.arange(batch) + number * batch
            made = TextImageBatch(tokens=tokens, seeds=seeds, **data)
            return made.pin_memory() if self.device.type == "cuda" else made

        return itertools.cycle([made(number) for number in range(IN_MEMORY)])


EAGER: Final = Step(precision="bf16-mixed", adam="foreach")
SD_HEADS: Final = ((40, 4096, 8), (80, 1024, 8), (160, 256, 8), (64, 4096, 5), (64, 1024, 10))
REAL: Final = Setting(
    world=WORLDS["sd14"],
    device=torch.device("cuda"),
    batches=(128, 32, 16),
    steps=5,
    reference=(64, 16),
    run=60,
    pictures=512,
    attention=tuple(
        (head, tokens, keys, heads, 32) for head, tokens, heads in SD_HEADS for keys in (tokens, 77)
    ),
    sampling=(25, 16),
    matmul=8192,
    teacher_steps=None,
    widths=(96, 160, 160, 160),
    teacher_pictures=40_000,
    teacher_batch=512,
    prompts=1024,
)
TOY: Final = Setting(
    world=replace(WORLDS["shapes"], batch=4),
    device=torch.device("cpu"),
    batches=(2,),
    steps=1,
    reference=(2,),
    run=12,
    pictures=32,
    attention=((8, 64, 64, 4, 2),),
    sampling=(2, 2),
    matmul=256,
    teacher_steps=3,
    teacher_pictures=64,
    teacher_batch=8,
    prompts=8,
)
