import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.measures.networks import noise
from tests.evaluation.measures.on_two_processes import COUNT, scores

ROOT = Path(__file__).parents[3]


def test_two_processes_find_what_one_finds() -> None:
    """With unequal shares of the pictures, and with none for one of them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--standalone", "-m", "tests.evaluation.measures.on_two_processes"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    alone = scores([slice(0, COUNT)], noise(COUNT, seed=0), noise(COUNT, seed=9))
    assert len(alone) == 5
    for found in lines[0]:
        assert list(found) == list(alone)
        for name, (value, count) in alone.items():
            assert found[name] == [pytest.approx(value, rel=1e-9), count], name
