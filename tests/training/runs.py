"""Runs beside each other."""

import shutil
from pathlib import Path

import torch

from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import RunFolder


def same_weights(a: Path, b: Path) -> bool:
    """Whether their students and averages are the same, bit for bit."""
    first, second = (read_checkpoint(RunFolder(path).checkpoint) for path in (a, b))
    averages = [content["callbacks"]["Ema"]["shadow_params"] for content in (first, second)]
    return all(
        torch.equal(first["state_dict"][n], second["state_dict"][n]) for n in first["state_dict"]
    ) and all(torch.equal(x, y) for x, y in zip(*averages, strict=True))


def interrupted(run: Path, folder: Path, *, step: int) -> RunFolder:
    """A copy of a run that keeps each step, as if it had ended after this one."""
    copy = RunFolder(Path(shutil.copytree(run, folder)))
    copy.checkpoint.with_name(f"step_{step}.ckpt").replace(copy.checkpoint)
    return copy
