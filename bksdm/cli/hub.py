"""The Hub's part in `bksdm train`, from its settings."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from omegaconf import DictConfig

from bksdm.cli.config import built
from bksdm.cli.launch import quoted
from bksdm.errors import InputError
from bksdm.export.hub import access_problem
from bksdm.export.license import license_of
from bksdm.models.source import TeacherSource
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import RunFolder
from bksdm.training.hub import HubSettings, HubUploads

log = logging.getLogger(__name__)


def check_hub(config: DictConfig) -> None:
    """Whether a run can be pushed as it is wanted, as far as asking can tell.

    Raises:
        InputError: the settings are none, the token is of somebody else, or no licence is known.
    """
    node = config.callbacks.hub
    if node is None:
        return
    settings = built(node, HubSettings)
    problem = access_problem(settings.destination)
    if problem is not None:
        raise InputError(f"callbacks.hub.{problem}")
    try:
        license_of(built(config.teacher, TeacherSource), wanted=settings.license)
    except InputError as error:
        raise InputError(str(error).replace("license=", "callbacks.hub.license=")) from error


def hub_uploads(config: DictConfig, folder: RunFolder, *, first: bool) -> HubUploads | None:
    """What pushes a run while it trains: in the first process, if it is wanted.

    Raises:
        InputError: it cannot be pushed, and is only about to begin; one that goes on goes on.
    """
    if config.callbacks.hub is None:
        return None
    settings = built(config.callbacks.hub, HubSettings)
    if not first:
        return None
    try:
        check_hub(config)
    except InputError as error:
        if not folder.begun:
            raise
        log.warning("hub: %s; the run goes on", error)
    return HubUploads(partial(_start, settings, folder), settings, folder)


def _start(settings: HubSettings, folder: RunFolder) -> subprocess.Popen[str]:
    """The process that pushes a run as it is now."""
    texts = {
        "run": str(folder.path),
        "repo": settings.repo,
        "revision": settings.revision,
        "license": settings.license,
    }
    arguments = [f"{name}={quoted(text)}" for name, text in texts.items() if text is not None]
    arguments.append(f"datasets=[{','.join(map(quoted, settings.datasets))}]")
    arguments += [f"{name}={getattr(settings, name)}" for name in ("private", "checkpoint")]
    return subprocess.Popen(
        [sys.executable, "-m", "bksdm.cli.main", "push", *arguments],
        # Little of what the training needs: no GPU, one thread.
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # signals are for the training
    )


def tell_arrived(uploads: HubUploads, folder: RunFolder, *, wait: bool) -> None:
    """Say what of a run is on the Hub; a finished run waits for the last push."""
    kept = folder.checkpoint
    step = int(read_checkpoint(kept)["global_step"]) if kept.exists() else 0
    if wait:
        minutes = uploads.settings.patience_minutes
        print(f"hub: pushing step {step}, for {minutes:g} minutes at most", flush=True)
    print(uploads.finish(step) if wait else uploads.told(step), flush=True)


@contextmanager
def told_if_ended(uploads: HubUploads | None, folder: RunFolder) -> Iterator[None]:
    """Say it, too, when a run ends in the midst; nothing is waited for."""
    try:
        yield
    except BaseException:
        if uploads is not None:
            with suppress(InputError, OSError):  # what ended the run is what is to be told
                tell_arrived(uploads, folder, wait=False)
        raise
