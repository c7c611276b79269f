"""The command in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path


def start(arguments: list[str], cwd: Path) -> subprocess.Popen[str]:
    """Run `bksdm`, and do not wait for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "bksdm.cli.main", *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def torchrun(arguments: list[str], cwd: Path, *, code: int = 0) -> str:
    """Run `bksdm` on two gloo processes; returns what they said on stderr."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--standalone", "-m", "bksdm.cli.main", *arguments]
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    return done.stderr
