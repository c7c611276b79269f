"""Checkpoint files: written whole or not at all, read with `weights_only=True`, and never the only
copy: the last but one stays beside the last.

A checkpoint holds student, average, optimiser, plan, teacher id, data fingerprint and versions:
tensors and plain values. Never a teacher tensor.
"""

import json
import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from bksdm.errors import InputError
from bksdm.export.about import About
from bksdm.surgery import plans

log = logging.getLogger(__name__)

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, in the target's own file system.

    Lightning's own way goes through memory and a temporary folder: where that is another file
    system, a kill while it copies leaves half a checkpoint in place of a whole one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """All or nothing, and on disk before the old one goes."""
        del storage_options
        target = Path(path)
        temporary = target.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)  # a full disk needs the room
            # torch's zip writer says nothing of the disk's error that it met.
            said = error.__context__
            raise (said if isinstance(said, OSError) else error) from None
        if target.name == LAST and target.exists():
            target.replace(target.with_name(PREVIOUS))
        temporary.replace(target)


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """The same in a thread: training goes on as soon as the tensors are copied to the CPU's memory.

    One checkpoint is written at a time. What goes wrong is raised by the next one, or at the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Copy now, write later."""
        self._wait()
        copied = apply_to_collection(
            checkpoint, torch.Tensor, lambda tensor: tensor.detach().to("cpu", copy=True)
        )
        write = super().save_checkpoint
        self._writing = self._writer.submit(write, copied, path, storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        """After what is being written: it may be that."""
        self._wait()
        super().remove_checkpoint(path)

    def teardown(self) -> None:
        """The last one is on disk when this returns."""
        self._wait()

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def checkpoint_io(*, background: bool) -> AtomicCheckpointIO:
    """How checkpoints are written."""
    return BackgroundCheckpointIO() if background else AtomicCheckpointIO()


def newest_checkpoint(last: Path, *, put_aside: bool = True) -> Path | None:
    """The checkpoint that a run goes on from: the last, or the one before if that is damaged. None
    without any.

    All of a file is read, against the checksums in it. One process alone must do so, and nobody may
    train the run meanwhile if a damaged one is `put_aside`.

    Raises:
        InputError: neither can be read.
    """
    there = [path for path in (last, last.with_name(PREVIOUS)) if path.exists()]
    for older, path in enumerate(there, start=1):
        try:
            read_checkpoint(path)
            _check_sums(path)
        except InputError:
            if older == len(there):
                raise
            where = path
            if put_aside:
                where = path.with_suffix(".damaged")
                path.replace(where)
            told = "%s is damaged; kept as %s, going on from %s"
            log.warning(told, path, where.name, there[older])
            continue
        return path
    return None


def _check_sums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise _unreadable(path, f"wrong checksum of {damaged}")


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"checkpoint {path} cannot be read ({why}); restore it from a copy, or move it away to"
        " begin again"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of ours on the CPU.

    Raises:
        InputError: it is missing, broken, or not one of ours.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        content["bksdm"]["teacher"]
    except FileNotFoundError:
        raise InputError(f"no checkpoint at {path}") from None
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise _unreadable(path, type(error).__name__) from error
    return content


def about_student(
    path: Path, *, weights: Literal["ema", "raw"], teacher_unet: Mapping[str, Any]
) -> About:
    """What the folder of an exported student says of where it comes from."""
    content = read_checkpoint(path)
    ours = content["bksdm"]
    config = {name: value for name, value in teacher_unet.items() if name[0] != "_"}
    return About(
        weights=weights,
        step=int(content["global_step"]),
        plan=json.loads(ours["plan"]),
        teacher={**ours["teacher"], "unet": config},
        versions=dict(ours["versions"]),
    )


def load_router(path: Path, router: nn.Module) -> None:
    """Fill a router with what a checkpoint holds, averaged.

    Raises:
        InputError: see `read_checkpoint`; or it holds none.
    """
    content, prefix = read_checkpoint(path), "router."
    if "router" not in content["bksdm"]:
        raise InputError(f"checkpoint {path} holds no router; expected one of `bksdm route`")
    weights = content["state_dict"].items()
    router.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in weights})
    fill_averaged(router, content)


def fill_averaged(network: nn.Module, content: dict[str, Any]) -> None:
    """Write a checkpoint's averaged weights into its network."""
    average = content["callbacks"]["Ema"]["shadow_params"]
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), average, strict=True):
            parameter.copy_(value)


def load_student(path: Path, *, weights: Literal["ema", "raw"] = "ema") -> UNet2DConditionModel:
    """The student that a checkpoint holds, with its averaged or its raw weights.

    Raises:
        InputError: see `read_checkpoint`; or it holds none.
    """
    content = read_checkpoint(path)
    ours = content["bksdm"]
    if "student_config" not in ours:
        raise InputError(
            f"checkpoint {path} holds no student but a router; expected one of `bksdm train`"
        )
    student = plans.rebuilt(ours["student_config"], plans.from_json(ours["plan"]))
    prefix = "student."
    student.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in content["state_dict"].items()}
    )
    if weights == "ema":
        fill_averaged(student, content)
    return student.eval()
