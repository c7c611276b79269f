"""Whether settings are those that a run was started with."""

from typing import Any, Final

import yaml

from bksdm.cli.config import differing_keys
from bksdm.errors import InputError
from bksdm.training.folder import RunFolder

# What may change between start and resume: it changes where and how fast a run goes, not what it
# computes.
FREE: Final = frozenset(
    {
        "name",  # of the folder, which may be renamed
        "plan",  # likewise: what it says is in student
        "runs_dir",
        "checkpoint",
        "samples",
        "protocol",
        "teacher.license",
        "callbacks",
        "resume",
        "export",
        "data.shards",  # may move: the index fingerprint in the checkpoint guards what they hold
        "data.validation_shards",
        "data.selection",  # likewise
        "data.workers",
        "data.start_method",
        "data.batch_size",
        "data.cache",
        "data.max_bad_fraction",
        "data.accept_changed",
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.timeout_minutes",
        "trainer.peak_tflops",
        "trainer.log_every_n_steps",
        "trainer.validate_every_n_steps",
        "optimizer.fused",
        "speed.channels_last",
        "speed.compile",
        "speed.attention",
        "speed.gradient_checkpointing",
        "speed.allreduce",
        "attention",
        "logger",
        "analysis",
    }
)


def check_same_run(folder: RunFolder, values: dict[str, Any]) -> None:
    """Refuse to go on with a run that has another configuration.

    Raises:
        InputError: with the differing keys.
    """
    if folder.begun:
        old = yaml.safe_load(folder.config.read_text())
        free = FREE
        if old["optimizer"]["schedule"].startswith("constant"):
            free |= {"trainer.max_steps"}  # its end is in no step before
        keys = differing_keys(old, values, free=free)
        if keys:
            raise InputError(
                f"run {folder.path} was started with other settings: {', '.join(keys)}; use another"
                f" name=, or the old values in {folder.config}"
            )
