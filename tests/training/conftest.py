"""A finished run, trained once."""

import shutil
import sys
from pathlib import Path

import pytest

from bksdm.cli.main import main
from tests.conftest import tiny_run_arguments


@pytest.fixture(scope="session")
def finished(sd1_folder: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of `tiny_run`'s four steps, with a copy of each step's checkpoint. Of
    all tests: to be copied.
    """
    folder = tmp_path_factory.mktemp("finished")
    arguments = tiny_run_arguments(sd1_folder, shards)
    arguments += ["name=whole", "checkpoint.keep_every_n_steps=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["bksdm", *arguments])
        assert main() == 0
    return folder / "runs" / "whole"


@pytest.fixture
def whole(finished: Path, tmp_path: Path) -> Path:
    """The same for a single test."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "whole"))
