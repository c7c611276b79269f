"""Images/s of `Distillation` through the Trainer against a bare loop of the same maths, in one run.

Both do data, VAE, text encoder, teacher, student, losses, clipping, AdamW, schedule and EMA. They
alternate in blocks of steps, so that the machine's moods hit both.
"""

import argparse
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
from diffusers.training_utils import EMAModel
from pytorch_lightning.loggers import CSVLogger

from bksdm.data.datamodule import ShardDataModule
from bksdm.data.exact import Loading, Share
from bksdm.data.store import CacheSettings
from bksdm.evaluation.report import table
from bksdm.losses.distill import LossWeights
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import load_teacher
from bksdm.surgery.blocks import feature_pairs, remove_blocks
from bksdm.surgery.plan import SMALL
from bksdm.training.checkpoint import Checkpoints
from bksdm.training.distill import Distillation
from bksdm.training.ema import Ema
from bksdm.training.optim import OptimizerSettings, clip_gradients

BATCH = 32


class Blocks(pl.Callback):
    """Times blocks of trainer steps, and runs a block of the bare loop after each, outside the
    trainer's time.
    """

    def __init__(self, bare: Iterator[None], *, steps: int) -> None:
        self.bare, self.steps = bare, steps
        self.trainer_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self.begin = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        """At the end of a block."""
        if trainer.global_step % self.steps:
            return
        now = time.perf_counter()
        if self.begin:
            self.trainer_seconds.append(now - self.begin)
        begin = time.perf_counter()
        for _ in itertools.islice(self.bare, self.steps):
            pass
        self.bare_seconds.append(time.perf_counter() - begin)
        self.begin = time.perf_counter()


def bare_loop(module: Distillation, data: ShardDataModule) -> Iterator[None]:
    """The same maths without a trainer; one step each time it is asked."""
    share = Share(batch=BATCH, rank=0, world=1, first_step=0, last_step=10**6)
    loader = data._training.loader(share, Loading(0, None))  # noqa: SLF001
    optimizer, schedule = module.optimizer_settings.build(module.student, max_steps=100_000)
    ema = EMAModel(module.student.parameters(), decay=0.999, foreach=True)
    for batch in loader:
        loss = module.terms(batch).total(module.weights)
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(module.student, module.gradient_clip)
        optimizer.step()
        schedule.step()
        ema.step(module.student.parameters())
        yield


def main() -> None:
    """Print the ratio, with spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10, help="steps a block")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    teacher = load_teacher(TeacherSource(name="shapes", path="embedded:shapes"))
    settings = OptimizerSettings(
        lr=1e-5, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, schedule="constant", warmup_steps=0
    )
    modules = [
        Distillation(
            remove_blocks(teacher.unet, plan=SMALL),
            teacher,
            pairs=feature_pairs(SMALL, teacher.unet.config),
            weights=LossWeights(task=1, output_kd=1, feature_kd=1),
            optimizer=settings,
            normalise_features=True,
        )
        for _ in range(2)
    ]
    data = ShardDataModule(
        shards="data/shapes/train-*.tar",
        validation_shards="data/shapes/validation-*.tar",
        resolution=64,
        batch_size=BATCH,
        global_batch=BATCH,
        seed=0,
        flip=False,
        caption_dropout=0.0,
        workers=0,
        window=8,
        validation_samples=32,
        teacher=teacher,
        cache=CacheSettings(),
    )
    blocks = Blocks(bare_loop(modules[1], data), steps=arguments.steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=(arguments.blocks + 1) * arguments.steps,
            accelerator="cpu",
            check_val_every_n_epoch=None,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
            logger=CSVLogger(folder),
            log_every_n_steps=20,
            callbacks=[
                Ema(decay=0.999),
                Checkpoints(Path(folder) / "last.ckpt", every_n_steps=10**9),
                blocks,
            ],
        )
        trainer.fit(modules[0], data)
    ratios = [
        bare / ours
        for bare, ours in zip(blocks.bare_seconds[1:], blocks.trainer_seconds, strict=False)
    ]
    low, median, high = statistics.quantiles(ratios, n=4)
    images = arguments.steps * BATCH
    rows = [
        ["bare loop", f"{images / statistics.median(blocks.bare_seconds[1:]):.1f}", ""],
        [
            "through the Trainer",
            f"{images / statistics.median(blocks.trainer_seconds):.1f}",
            f"{median:.3f} ({low:.3f} - {high:.3f})",
        ],
    ]
    print(
        table(
            rows,
            header=[
                f"Small, batch {BATCH}, {torch.get_num_threads()} threads",
                "images/s",
                "ratio (quartiles)",
            ],
        )
    )


if __name__ == "__main__":
    main()
