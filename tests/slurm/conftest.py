"""One Slurm for all tests of this folder."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two idle nodes; stopped whatever happens."""
    reason = missing()
    if reason:
        pytest.fail(f"no Slurm can be started here: {reason}")  # asked for, so never skipped
    # Not under pytest's long folder: the path of a socket has at most 107 characters.
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(cluster.folder, ignore_errors=True)
