"""`bksdm evaluate` of tiny models, quickly."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

Cli = Callable[..., int]
COUNT = 7


@pytest.fixture(scope="session")
def models(sd1_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `teacher` and two `student`s that differ from it a little."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(sd1_folder, folder / "teacher")
    for number in (1, 2):
        pipeline = StableDiffusionPipeline.from_pretrained(sd1_folder, safety_checker=None)
        rng = torch.Generator().manual_seed(number)
        for parameter in pipeline.unet.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=rng)
        pipeline.save_pretrained(folder / f"student{number}")
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    write_prompts(path)
    return path


def write_prompts(path: Path) -> None:
    path.write_text("".join(f"a dog number {i}\n" for i in range(COUNT)))


@pytest.fixture
def evaluate(run_cli: Cli, prompts: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`bksdm evaluate` among the models, quickly."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> int:
        monkeypatch.chdir(models)
        return run_cli("evaluate", *quick(prompts), *arguments)

    return run


def quick(prompts: Path) -> list[str]:
    return [
        "protocol=paired",
        f"protocol.prompts.path={prompts}",
        "protocol.sampling.steps=2",
        "protocol.measures.denoising.draws=1",
        "latency=null",
        f"out={prompts.parent / 'out'}",
    ]


@pytest.fixture(scope="session")
def once(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where teacher and student1 have been evaluated, and what was printed."""
    folder = tmp_path_factory.mktemp("once")
    write_prompts(folder / "prompts.txt")
    command = ["evaluate", *quick(folder / "prompts.txt"), "model=[teacher,student1]"]
    done = subprocess.run(
        [sys.executable, "-m", "bksdm.cli.main", *command],
        cwd=models,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def evaluated(once: tuple[Path, str], prompts: Path) -> str:
    """The same in this test's folder; returns what was printed."""
    shutil.copytree(once[0] / "out", prompts.parent / "out")
    return once[1]


def found(prompts: Path) -> dict[str, dict[str, Any]]:
    """The models of all results files, by name."""
    files = (prompts.parent / "out").rglob("results.json")
    each = [json.loads(file.read_text())["models"][0] for file in files]
    return {model["name"]: model for model in each}
