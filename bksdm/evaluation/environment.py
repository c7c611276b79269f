"""What a measurement was made with: versions, hardware, command, commit."""

import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from PIL import features

import bksdm
from bksdm.evaluation.cost.machine import machine

PACKAGES: Final = (
    *("torch", "diffusers", "transformers", "tokenizers", "torchmetrics", "torch-fidelity"),
    *("numpy", "scipy", "pillow"),
)


def environment(device: torch.device) -> dict[str, Any]:
    """Plain values for `results.json`. No host name is among them."""
    return {
        "command": f"{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {
            "bksdm": bksdm.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
            # JPEG's bytes, and so FID, depend on it in the last digits.
            "libjpeg_turbo": features.version_feature("libjpeg_turbo"),
        },
        "machine": asdict(machine(device)),
    }


def without_home(text: str) -> str:
    """A text with the user's home folder as ~: whose machine it was is nobody's business."""
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text) if home else text


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that bksdm is imported from, with a + where files differ from it."""
    folder = Path(bksdm.__file__).parent
    try:
        git = ["git", "-C", str(folder)]
        head, tracked = (
            subprocess.run([*git, *rest], capture_output=True, text=True, check=True).stdout.strip()
            for rest in (["rev-parse", "--short", "HEAD"], ["ls-files", "."])
        )
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}{'+' * bool(dirty)}" if tracked else None
