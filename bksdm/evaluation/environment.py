"""What a measurement was made with: versions, hardware, command, commit."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

import bksdm

PACKAGES: Final = ("torch", "diffusers", "transformers", "torchmetrics", "numpy", "scipy", "pillow")


def environment(device: torch.device) -> dict[str, Any]:
    """Plain values for `results.json`. No path and no host name is among them."""
    return {
        "command": " ".join(["bksdm", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {
            "bksdm": bksdm.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "hardware": {
            "device": _device_name(device),
            "threads": torch.get_num_threads(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


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


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"
