import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.errors import InputError
from bksdm.processes import Process
from bksdm.training.bad_samples import BadSamples, described
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import RunFolder
from bksdm.training.peers import Peers
from tests.data.hostile import good, write_tar
from tests.training.processes import torchrun

Cli = Callable[..., int]


ALONE = Peers(Process())


def compare(bad: int, seen: int, limit: float) -> None:
    counts = Counter({("b.tar", "no caption"): bad}) if bad else Counter()
    BadSamples(max_fraction=limit, every_n_steps=1, global_batch=1, peers=ALONE).compare(
        counts, seen=seen
    )


@pytest.mark.parametrize(
    ("bad", "seen", "limit"),
    [(0, 1000, 0.0), (1, 256, 0.001), (2, 256, 0.001), (10, 10_000, 0.001), (9, 9, 1.0)],
)
def test_chance_alone_does_not_stop_a_run(bad: int, seen: int, limit: float) -> None:
    compare(bad, seen, limit)


@pytest.mark.parametrize(
    ("bad", "seen", "limit"),
    [(1, 256, 0.0), (4, 256, 0.001), (2, 32, 0.001), (25, 10_000, 0.001), (30, 100, 0.1)],
)
def test_more_than_the_limit_stops_it(bad: int, seen: int, limit: float) -> None:
    with pytest.raises(InputError, match=rf"{bad} of {seen} samples are bad .*max_bad_fraction"):
        compare(bad, seen, limit)


def test_the_worst_shard_is_named() -> None:
    counts = Counter({("a.tar", "x"): 2, ("b.tar", "x"): 2, ("b.tar", "y"): 1})
    assert described(counts, seen=9, example="0001") == (
        "5 of 9 samples are bad (4 x, 1 y), most in b.tar (3), e.g. 0001"
    )


def test_a_warning_comes_once_a_while(caplog: pytest.LogCaptureFixture) -> None:
    callback = BadSamples(max_fraction=1.0, every_n_steps=1, global_batch=1, peers=ALONE)
    for bad in range(1, 6):
        callback.compare(Counter({("a.tar", "x"): bad}), seen=100)
    assert caplog.text.count("others stood in") == 1


def test_counts_go_on_after_a_resume() -> None:
    first = BadSamples(max_fraction=1.0, every_n_steps=1, global_batch=1, peers=ALONE)
    first._own = Counter({("a.tar", "x"): 3})
    second = BadSamples(max_fraction=1.0, every_n_steps=1, global_batch=1, peers=ALONE)
    second.load_state_dict(first.state_dict())
    second._own = Counter({("a.tar", "x"): 1})
    assert second.totals() == Counter({("a.tar", "x"): 4})


@pytest.fixture
def bad_run(tiny_run: list[str], shards: Path, tmp_path: Path) -> list[str]:
    """A run with one shard of which three samples in four have no caption."""
    folder = tmp_path / "own"
    shutil.copytree(shards, folder)
    bad = [member for i, member in enumerate(good(16)) if i % 2 == 0 or i % 8 == 1]
    write_tar(folder / "train-00001.tar", bad)
    return [argument.replace(str(shards), str(folder)) for argument in tiny_run]


def test_a_run_stops_above_the_limit_and_names_the_worst_shard(
    run_cli: Cli, bad_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*bad_run, "name=bad") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no caption" in line
    assert "most in train-00001.tar" in line
    assert "data.max_bad_fraction=0.001" in line


def test_a_run_below_the_limit_ends_and_remembers_its_bad_samples(
    run_cli: Cli, bad_run: list[str], tmp_path: Path
) -> None:
    arguments = [*bad_run, "name=bad", "data.max_bad_fraction=0.9", "data.workers=1"]
    assert run_cli(*arguments) == 0
    content = read_checkpoint(RunFolder(tmp_path / "runs" / "bad").checkpoint)
    ((shard, reason, count),) = content["callbacks"]["BadSamples"]["bad"]
    assert (shard, reason) == ("train-00001.tar", "no caption")
    assert 4 <= count <= 12  # of 32, a quarter expected


def test_two_processes_count_what_one_counts(
    run_cli: Cli, bad_run: list[str], tmp_path: Path
) -> None:
    """Also with three validation samples, which two processes cannot halve."""
    arguments = [*bad_run, "data.max_bad_fraction=0.9", "data.batch_size=2"]
    arguments += ["data.validation_samples=3"]
    assert run_cli(*arguments, "name=one") == 0
    torchrun([*arguments, "name=two", "data.batch_size=1"], tmp_path)
    one, two = (
        read_checkpoint(RunFolder(tmp_path / "runs" / name).checkpoint)["callbacks"]["BadSamples"]
        for name in ("one", "two")
    )
    assert one == two
    assert one["bad"]


def test_two_processes_stop_together(bad_run: list[str], tmp_path: Path) -> None:
    said = torchrun([*bad_run, "name=two", "data.batch_size=1"], tmp_path, code=1)
    assert "most in train-00001.tar" in said
