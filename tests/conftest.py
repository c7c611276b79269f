"""Tiny real classes: Stable-Diffusion-1- and 2-shaped pipelines, shards of the embedded world, runs
of the command.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bksdm.cli.main import main
from bksdm.data.shapes import samples
from bksdm.data.shards import write_shard
from bksdm.models.source import TeacherSource, embedded_folder
from bksdm.models.teacher import Teacher, load_teacher

torch.set_num_threads(1)
WIDTH = 16


def tiny_unet(kind: str) -> UNet2DConditionModel:
    """Four stages of two layers, as SD-1 (conv projections) or SD-2 (linear, heads a stage)."""
    torch.manual_seed(0)
    own = (
        {"attention_head_dim": [1, 2, 4, 4], "use_linear_projection": True}
        if kind == "sd2"
        else {"attention_head_dim": 2}
    )
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 32, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        cross_attention_dim=WIDTH,
        norm_num_groups=4,
        **own,
    ).eval()


def tiny_pipeline(kind: str) -> StableDiffusionPipeline:
    """A whole pipeline with random weights."""
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer")
    unet = tiny_unet(kind)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5 if kind == "sd2" else 0.18215,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction" if kind == "sd2" else "epsilon",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session", params=["sd1", "sd2"])
def teacher_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A diffusers folder of each kind."""
    folder = tmp_path_factory.mktemp(request.param) / "teacher"
    tiny_pipeline(request.param).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SD-1-shaped diffusers folder."""
    folder = tmp_path_factory.mktemp("sd1") / "teacher"
    tiny_pipeline("sd1").save_pretrained(folder)
    return folder


@pytest.fixture
def teacher(teacher_folder: Path) -> Teacher:
    """A loaded teacher of each kind."""
    return load_teacher(TeacherSource(name="tiny", path=str(teacher_folder)))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three training shards of 16 and a validation shard of 8."""
    folder = tmp_path_factory.mktemp("shards")
    for split, count, per_shard, seed in [("train", 48, 16, 1), ("validation", 8, 8, 2)]:
        rows = [
            (f"{i:04d}", image, scene.caption)
            for i, (scene, image) in enumerate(samples(count, seed=seed))
        ]
        for shard, start in enumerate(range(0, count, per_shard)):
            write_shard(folder / f"{split}-{shard:05d}.tar", rows[start : start + per_shard])
    return folder


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run `bksdm` in this process, in a temporary folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["bksdm", *map(str, arguments)])
        return main()

    return run


@pytest.fixture
def tiny_run(sd1_folder: Path, shards: Path) -> list[str]:
    """Arguments of a four-step training of a tiny teacher's student."""
    return tiny_run_arguments(sd1_folder, shards)


def tiny_run_arguments(teacher: Path, shards: Path) -> list[str]:
    """See `tiny_run`."""
    return [
        "train",
        f"teacher={teacher}",
        "teacher.name=tiny",
        f"data.shards={shards}/train-*.tar",
        f"data.validation_shards={shards}/validation-*.tar",
        "data.validation_samples=8",
        "data.resolution=16",
        "data.batch_size=4",
        "data.global_batch=8",
        "data.workers=0",
        "trainer.accelerator=cpu",
        "trainer.max_steps=4",
        "trainer.log_every_n_steps=1",
        "trainer.validate_every_n_steps=2",
        "checkpoint.every_n_steps=1",
        "samples.every_n_steps=0",
        "export.fresh_process=false",
    ]


@pytest.fixture(scope="session")
def finished(sd1_folder: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of `tiny_run`'s four steps, with a copy of each step's checkpoint. Of
    all tests: to be copied.
    """
    folder = tmp_path_factory.mktemp("finished")
    arguments = tiny_run_arguments(sd1_folder, shards)
    arguments += ["name=whole", "checkpoint.keep_every_n_steps=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["bksdm", *arguments])
        assert main() == 0
    return folder / "runs" / "whole"


@pytest.fixture
def whole(finished: Path, tmp_path: Path) -> Path:
    """The same for a single test."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "whole"))
