"""The benchmarks run; what they print is in docs/performance.md and EXPERIMENTS.md."""

import sys
from pathlib import Path

import pytest

from bench import data, step
from bksdm.cli.main import main


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small embedded world in ./data/shapes."""
    monkeypatch.chdir(tmp_path)
    small = ["source.train_samples=64", "validation_samples=32", "samples_per_shard=64"]
    monkeypatch.setattr(sys, "argv", ["bksdm", "prepare", "workers=1", *small])
    assert main() == 0


@pytest.mark.usefixtures("shapes")
def test_the_trainer_is_compared_with_a_bare_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step, "BATCH", 8)
    monkeypatch.setattr(sys, "argv", ["step", "--blocks", "3", "--steps", "1"])
    step.main()
    assert "through the Trainer" in capsys.readouterr().out


@pytest.mark.usefixtures("shapes")
def test_first_batches_are_timed_at_both_ends(tmp_path: Path) -> None:
    assert "at step 1,000,000" in data.resuming(tmp_path, turns=2)
