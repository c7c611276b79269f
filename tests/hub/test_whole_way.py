"""What people do: a student of the embedded world goes to the Hub and comes back elsewhere."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bksdm.export import stranger
from bksdm.export.pipeline import load_pipeline
from tests.hub.server import Hub

Cli = Callable[..., int]
REPO = "user/shapes-small"

# Somebody else's program: stock diffusers, the Hub, and no bksdm.
ELSEWHERE = f"""
import runpy, sys
import numpy as np, torch
sys.modules["bksdm"] = None
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained("{REPO}", dtype=torch.float32)
torch.set_num_threads(1)
np.save(sys.argv[1], runpy.run_path({stranger.__file__!r})["picture"](pipeline))
try:
    import bksdm
except ImportError:
    print("no bksdm here")
"""


def test_a_student_draws_the_same_picture_after_it_was_on_the_hub(
    run_cli: Cli, hub: Hub, hub_environment: dict[str, str], shards: Path, tmp_path: Path
) -> None:
    small = [
        *(f"data.shards={shards}/train-*.tar", f"data.validation_shards={shards}/validation-*.tar"),
        *("data.validation_samples=8", "data.batch_size=4", "data.global_batch=8"),
        *("data.workers=0", "trainer.max_steps=2", "trainer.validate_every_n_steps=2"),
        *("samples.every_n_steps=0", "protocol=none"),
    ]
    assert run_cli("train", "student=small", *small) == 0
    assert run_cli("push", "run=runs/shapes-small", f"repo={REPO}") == 0
    assert b"license: apache-2.0" in hub.files(REPO)["README.md"]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "drawn.npy")],
        env={**os.environ, **hub_environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no bksdm here" in done.stdout
    mine = stranger.picture(load_pipeline(tmp_path / "runs" / "shapes-small" / "student"))
    assert np.array_equal(np.load(tmp_path / "drawn.npy"), mine)
