"""What an exported folder says of where it comes from: `bksdm.json`, beside model_index.json. Stock
diffusers does not look at it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from bksdm.errors import InputError

ABOUT: Final = "bksdm.json"


@dataclass(frozen=True, kw_only=True)
class About:
    """What an exported folder says of itself.

    Attributes:
        weights: the average of training, or the last step's.
        step: optimiser steps that made them.
        plan: a plan's values.
        teacher: its path, revision, and U-Net config under "unet".
        versions: of packages, by name.
        export: `ExportSettings`' values; filled in by `export_student`.
    """

    weights: Literal["ema", "raw"]
    step: int
    plan: Mapping[str, Any]
    teacher: Mapping[str, Any]
    versions: Mapping[str, str]
    export: Mapping[str, Any] = field(default_factory=dict)


def write_about(folder: Path, about: About) -> None:
    """Say it in a folder."""
    (folder / ABOUT).write_text(json.dumps(asdict(about), indent=1) + "\n")


def about_folder(folder: Path) -> About | None:
    """What an exported folder says of itself; None for one that we did not write."""
    path = folder / ABOUT
    if not path.is_file():
        return None
    try:
        about = About(**json.loads(path.read_text()))
        about.teacher["path"], about.teacher["unet"]["block_out_channels"]
        return about
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: not written by this version of bksdm ({error}); export again"
        ) from error
