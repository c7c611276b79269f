"""Where the step's cases run: teacher, student, batch and data. A toy that fits a laptop, and
Stable Diffusion at its real size with random weights, which cost as much as trained ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from hydra import compose, initialize_config_module

from bench.cases import Step
from bksdm.cli.config import built
from bksdm.data.datamodule import ShardDataModule
from bksdm.data.encode import encode
from bksdm.data.index import build_index
from bksdm.data.latents import latent_format
from bksdm.data.shapes import samples
from bksdm.data.shards import write_shard
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.data.todo import shards_to_do
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher
from bksdm.processes import Process
from bksdm.surgery.plan import BASE, SMALL, BlockPlan

KINDS: Final = ("pictures", "latents", "latents and text")


@dataclass(frozen=True, kw_only=True)
class World:
    """What is trained on what.

    Attributes:
        teacher: a name in conf/teacher.
        weights: of the teacher, "pretrained" or "random".
        plan: of the student.
        batch: samples a step, in one micro-batch.
        defaults: how our step differs here from `Step()`.
    """

    teacher: str
    weights: str = "pretrained"
    plan: BlockPlan
    batch: int
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> Step:
        """Our step in this world."""
        return Step().changed(self.defaults)

    def source(self) -> TeacherSource:
        """Where its teacher comes from."""
        given = [f"teacher={self.teacher}", f"teacher.weights={self.weights}"]
        with initialize_config_module("bksdm.conf", version_base="1.3"):
            return built(compose("plan", given).teacher, TeacherSource)


# As conf/trainer/gpu.yaml and conf/speed/fast.yaml.
FAST: Final = {
    "precision": "bf16-mixed",
    "teacher_precision": "bfloat16",
    "channels_last": True,
    "compile": "default",
}
WORLDS: Final = {
    "shapes": World(teacher="shapes", plan=SMALL, batch=32),
    "sd14": World(teacher="sd14", weights="random", plan=BASE, batch=64, defaults=FAST),
    "sd21_base": World(teacher="sd21_base", weights="random", plan=BASE, batch=64, defaults=FAST),
}


@dataclass(frozen=True)
class Shards:
    """A few drawn pictures in the teacher's size, and latents of them: enough for the steps, few
    enough for the page cache.
    """

    folder: Path
    teacher: Teacher
    batch: int

    def data(self, kind: str) -> ShardDataModule:
        """The data of a training on one of `KINDS`."""
        shards = str(self.folder / kind / "*.tar")
        return ShardDataModule(
            shards=shards,
            validation_shards=shards,
            resolution=self.teacher.picture_size,
            batch_size=self.batch,
            global_batch=self.batch,
            seed=0,
            flip=False,
            caption_dropout=0.1,
            workers=0,
            window=8,
            validation_samples=self.batch,
            teacher=self.teacher,
            cache=CacheSettings(folder=str(self.folder / "cache")),
        )


def drawn_shards(folder: Path, teacher: Teacher, *, batch: int, device: torch.device) -> Shards:
    """Draw and encode four batches; the teacher's encoders end on `device`."""
    size = (teacher.picture_size,) * 2
    rows = [
        (f"{row:06d}", image.resize(size), scene.caption)
        for row, (scene, image) in enumerate(samples(4 * batch, seed=0))
    ]
    write_shard(folder / "pictures" / "00000.tar", rows)
    index = build_index(str(folder / "pictures" / "*.tar"))
    teacher.encoders_to(device, dtype=torch.float32)
    for kind, text in (("latents", False), ("latents and text", True)):
        shape = latent_format(teacher, resolution=size[0], flips=False, text=text)
        todo = shards_to_do(index, folder / kind, shape, Process(rank=0, world=1, local_rank=0))
        encode(
            index, teacher, shape, todo, store=ShardStore(CacheSettings()), batch_size=16,
            workers=0, device=device, on_images=lambda _: None,
        )  # fmt: skip
    return Shards(folder, teacher, batch)
