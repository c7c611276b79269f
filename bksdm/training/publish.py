"""What of a run goes to the Hub, and as what: the diffusers folder at the root, so that
`from_pretrained` finds it, and beside it the card, the checkpoint and what was measured.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bksdm.training.folder import STARTS, RunFolder, alone
from bksdm.training.run_card import CardWishes, run_card

CARD: Final = "README.md"
CHECKPOINT: Final = "checkpoints/last.ckpt"
# What a run is gone on with from there (`train resume=hf://owner/name`); the checkpoint last.
RESUMABLE: Final = ("config.yaml", "metrics.csv", STARTS, "samples/*.png", CHECKPOINT)
_STAGE: Final = ".push"  # in the run's folder


def run_files(folder: RunFolder, *, checkpoint: bool) -> dict[str, Path]:
    """Files of a run by their names in a repository, without the card."""
    student = {
        path.relative_to(folder.student).as_posix(): path
        for path in sorted(folder.student.rglob("*"))
        if path.is_file()
    }
    beside = [folder.config, folder.metrics, folder.results, folder.path / STARTS]
    beside += sorted(folder.samples.glob("*.png"))
    if checkpoint:
        beside.append(folder.checkpoint)
    others = {path.relative_to(folder.path).as_posix(): path for path in beside if path.is_file()}
    return student | others


@contextmanager
def staged(folder: RunFolder, wishes: CardWishes) -> Iterator[Path]:
    """A folder laid out as the repository, as the run is now; it stays so while the run goes on.

    Raises:
        InputError: no card can be written, or somebody else pushes the run.
    """
    stage = folder.path / _STAGE
    taken = f"{folder.path} is being pushed by another process; wait for it"
    with alone(folder.path / f"{_STAGE}.lock", seconds=0, taken=taken):
        shutil.rmtree(stage, ignore_errors=True)  # of one that was killed
        try:
            for name, path in run_files(folder, checkpoint=wishes.checkpoint).items():
                target = stage / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _keep(path, target)
            (stage / CARD).write_text(run_card(folder, wishes))
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _keep(path: Path, target: Path) -> None:
    """The file as it is now. Large ones are only ever replaced, so a second name keeps the content;
    others are written to.
    """
    if path.suffix in (".ckpt", ".safetensors"):
        try:
            os.link(path, target)
        except OSError:  # a file system without links
            shutil.copyfile(path, target)
    else:
        shutil.copyfile(path, target)
