"""What of a run goes to the Hub, and as what: the diffusers folder at the root, so that
`from_pretrained` finds it, and beside it the card, the checkpoint and what was measured.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bksdm.errors import InputError
from bksdm.export.card import check_card
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import STARTS, RunFolder, alone
from bksdm.training.run_card import CardWishes, run_card

CARD: Final = "README.md"
CHECKPOINT: Final = "checkpoints/last.ckpt"
# What a run is gone on with from there (`train resume=hf://owner/name`); the checkpoint last.
RESUMABLE: Final = ("config.yaml", "metrics.csv", STARTS, "samples/*.png", CHECKPOINT)
_STAGE: Final = ".push"  # in the run's folder
_TRIES, _PAUSE = 20, 0.05  # seconds
_OF_A_STUDENT: Final = (
    *("unet/*", "vae/*", "text_encoder/*", "tokenizer/*", "scheduler/*"),
    *("model_index.json", "sampling.json", "bksdm.json", "sparsity.json", "*.safetensors"),
)


def run_files(folder: RunFolder) -> dict[str, Path]:
    """Files of a run by their names in a repository, without the card and the checkpoint."""
    student = {
        path.relative_to(folder.student).as_posix(): path
        for path in sorted(folder.student.rglob("*"))
        if path.is_file()
    }
    beside = [folder.config, folder.metrics, folder.results, folder.path / STARTS]
    beside += sorted(folder.samples.glob("*.png"))
    others = {path.relative_to(folder.path).as_posix(): path for path in beside if path.is_file()}
    return student | others


@dataclass(frozen=True)
class Stage:
    """A folder laid out as the repository, and the optimiser step that its checkpoint has."""

    path: Path
    step: int

    @property
    def files(self) -> dict[str, Path]:
        """What is in it, by names in the repository."""
        found = (path for path in sorted(self.path.rglob("*")) if path.is_file())
        return {path.relative_to(self.path).as_posix(): path for path in found}


@contextmanager
def staged(folder: RunFolder, wishes: CardWishes) -> Iterator[Stage]:
    """The run as it is now; it stays so in the stage while the run goes on.

    Raises:
        InputError: there is no checkpoint, no card can be written, or somebody else pushes the run.
    """
    stage = folder.path / _STAGE
    taken = f"{folder.path} is being pushed by another process; wait for it"
    with alone(folder.path / f"{_STAGE}.lock", seconds=0, taken=taken):
        shutil.rmtree(stage, ignore_errors=True)  # of one that was killed
        try:
            checkpoint = _keep_checkpoint(folder, stage / CHECKPOINT)
            for name, path in run_files(folder).items():
                _keep(path, stage / name)
            card = run_card(folder, checkpoint, wishes)
            check_card(card)
            (stage / CARD).write_text(card)
            step = int(read_checkpoint(checkpoint)["global_step"])
            if not wishes.checkpoint:
                checkpoint.unlink()
            yield Stage(stage, step)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def outdated(folder: RunFolder) -> list[str]:
    """Patterns of what an earlier push has left in a repository, and this one does not have."""
    always = ["checkpoints/*", "samples/*", "results.json"]
    return [*always, *_OF_A_STUDENT] if folder.student.exists() else always


def _keep_checkpoint(folder: RunFolder, target: Path) -> Path:
    """The last checkpoint as it is now. It is put in place by two renames: between them there is
    none for a moment.
    """
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            _keep(folder.checkpoint, target)
            return target
        time.sleep(_PAUSE)
    raise InputError(f"{folder.path}: no {folder.checkpoint.name}; nothing is trained yet")


def _keep(path: Path, target: Path) -> None:
    """The file as it is now. Large ones are only ever replaced, so a second name keeps the content;
    others are written to.
    """
    path = path.resolve()  # a link is to be followed: it may lead to another file system
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".ckpt", ".safetensors"):
        try:
            os.link(path, target)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, target)
    else:
        shutil.copyfile(path, target)
