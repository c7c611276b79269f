"""The Hub's part in `bksdm train`, from its settings."""

import logging
import os
import subprocess
import sys
from functools import partial

from omegaconf import DictConfig

from bksdm.cli.config import built
from bksdm.cli.launch import quoted
from bksdm.errors import InputError
from bksdm.export.card import inherited_license
from bksdm.models.source import TeacherSource
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import RunFolder
from bksdm.training.hub import HubSettings, HubUploads

log = logging.getLogger(__name__)


def hub_uploads(config: DictConfig, folder: RunFolder, *, first: bool) -> HubUploads | None:
    """What pushes a run while it trains: in the first process, if it is wanted.

    Raises:
        InputError: the settings are none. That the Hub cannot be asked is only warned of.
    """
    node = config.callbacks.hub
    if node is None:
        return None
    settings = built(node, HubSettings)
    if not first:
        return None
    if settings.license is None:
        try:
            inherited_license(built(config.teacher, TeacherSource))
        except InputError as error:
            told = str(error).replace("license=", "callbacks.hub.license=")
            log.warning("hub: %s; until then nothing is pushed", told)
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


def arrived(uploads: HubUploads, folder: RunFolder, code: int) -> str:
    """What of a run is on the Hub: only a finished one is waited for."""
    step = int(read_checkpoint(folder.checkpoint)["global_step"])
    return uploads.told(step) if code else uploads.finish(step)
