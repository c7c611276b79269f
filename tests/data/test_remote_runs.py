"""Runs whose shards lie elsewhere are the runs whose shards lie here."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import RunFolder
from tests.data.servers import Nginx, flaky_proxy

Cli = Callable[..., int]


def same(first: Path, second: Path) -> bool:
    one, other = (
        read_checkpoint(RunFolder(path).checkpoint)["state_dict"] for path in (first, second)
    )
    return all(torch.equal(one[name], other[name]) for name in one)


def moved(arguments: list[str], shards: Path, place: str, tmp_path: Path) -> list[str]:
    """The same run with its shards at another place."""
    named = [
        argument.replace(str(shards), place)
        .replace("train-*", "train-{00000..00002}")
        .replace("validation-*", "validation-00000")
        for argument in arguments
    ]
    return [*named, f"data.cache.folder={tmp_path}/cache"]


@pytest.mark.usefixtures("quick")
def test_a_run_over_a_bad_line(
    run_cli: Cli, tiny_run: list[str], shards: Path, nginx: Nginx, served: Path, tmp_path: Path
) -> None:
    assert run_cli(*tiny_run, "name=here") == 0
    for path in shards.glob("*.tar"):
        shutil.copy(path, served / path.name)
    with flaky_proxy(nginx.port, "cut", "503", "cut", "cut") as proxy:
        remote = moved(tiny_run, shards, f"{proxy.url}/{served.name}", tmp_path)
        assert run_cli(*remote, "name=there", "data.workers=2") == 0
    assert same(tmp_path / "runs" / "here", tmp_path / "runs" / "there")
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 4


def test_a_run_from_a_bucket(
    run_cli: Cli, tiny_run: list[str], shards: Path, bucket: Any, tmp_path: Path
) -> None:
    for path in shards.glob("*.tar"):
        bucket.upload_file(str(path), "shards", f"laion/{path.name}")
    assert run_cli(*tiny_run, "name=here") == 0
    remote = [argument.replace(str(shards), "s3://shards/laion") for argument in tiny_run]
    assert run_cli(*remote, f"data.cache.folder={tmp_path}/cache", "name=there") == 0
    assert same(tmp_path / "runs" / "here", tmp_path / "runs" / "there")


def test_a_run_through_a_command_needs_leave(
    run_cli: Cli, tiny_run: list[str], shards: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    remote = moved(tiny_run, shards, f"pipe:cat {shards}", tmp_path)
    assert run_cli(*remote, "name=there") == 2
    assert "runs a shell command" in capsys.readouterr().err
    assert run_cli(*remote, "name=there", "data.cache.allow_pipe=true") == 0


def test_a_cache_that_holds_no_two_windows_is_refused(
    run_cli: Cli, tiny_run: list[str], shards: Path, nginx: Nginx, served: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for path in shards.glob("*.tar"):
        shutil.copy(path, served / path.name)
    remote = moved(tiny_run, shards, f"{nginx.url}/{served.name}", tmp_path)
    size = (shards / "train-00000.tar").stat().st_size
    assert run_cli(*remote, f"data.cache.max_gb={1.5 * size / 1e9}") == 2
    assert "the 16 shards that are read in turn take" in capsys.readouterr().err
