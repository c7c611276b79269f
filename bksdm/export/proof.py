"""The proof that an export holds what was trained: a fresh process with stock diffusers, in which
bksdm cannot be imported, loads it and draws the same picture, bit for bit in fp32 on the CPU.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bksdm.errors import InputError
from bksdm.export import stranger
from bksdm.models.source import plain_config


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a file or folder is said to hold.

    Attributes:
        path: of the diffusers folder, or of the single file.
        expected: the picture that the pipeline in memory draws (`stranger.picture`).
        config: of the U-Net in memory.
        variant: which weights of the folder: None or "fp16".
        folder: for a single file, the folder that says what its layout cannot; None for a folder.
    """

    path: Path
    expected: NDArray[np.float32]
    config: Mapping[str, Any]
    variant: str | None = None
    folder: Path | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.path.name}{f' ({self.variant})' * bool(self.variant)}"

    def job(self, out: Path) -> dict[str, Any]:
        """For `stranger.main`."""
        return {
            "kind": "single file" if self.folder else "folder",
            "path": str(self.path),
            "config": str(self.folder),
            "variant": self.variant,
            "out": str(out),
        }


def prove(claims: Sequence[Claim], scratch: Path) -> None:
    """Raise unless a stranger gets the same pictures and the same configs.

    Args:
        claims: what to look at.
        scratch: an existing folder for the pictures.

    Raises:
        RuntimeError: one differs, or does not load.
        InputError: the process was killed from outside.
    """
    outs = [scratch / f"picture-{i}.npy" for i, _ in enumerate(claims)]
    jobs = [claim.job(out) for claim, out in zip(claims, outs, strict=True)]
    configs = _answers({"jobs": jobs, "threads": torch.get_num_threads()})
    for claim, out, config in zip(claims, outs, configs, strict=True):
        if config != plain_config(claim.config):
            raise RuntimeError(f"{claim.name}: the exported U-Net has another config")
        drawn = np.load(out)
        if not np.array_equal(drawn, claim.expected):
            error = float(np.abs(drawn - claim.expected).max())
            raise RuntimeError(
                f"{claim.name}: reloaded in a fresh process it draws another picture (largest"
                f" difference {error:.3g} of 1; export.fresh_process=false compares here)"
            )


def _answers(given: dict[str, Any]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-P", stranger.__file__],
        input=json.dumps(given),
        env=os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise InputError(
            f"the process that proves the export was ended by {name} (SIGKILL: often out of"
            " memory); use export.fresh_process=false to compare in this process"
        )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"stock diffusers does not load the export: {' '.join(last)}")
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers
