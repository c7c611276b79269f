"""What is known of a model by its name: its curves, and its guidance."""

import itertools
from pathlib import Path

import pytest

from bksdm.cli.models import curves, guidance_of, named_model
from bksdm.errors import InputError
from bksdm.evaluation.routing.analysis import write_analysis
from tests.evaluation.routing.world import analysis

HEADER = "epoch,step,train/loss,train/output_kd_loss,speed/mfu\n"


def write_metrics(folder: Path, count: int, *, cut: str = "") -> Path:
    path = folder / "metrics.csv"
    rows = [f"0,{step},{step / 10},,0.5\n" for step in range(count)]
    path.write_text(HEADER + "".join(rows) + cut)
    return path


def test_curves_are_the_losses_by_step(tmp_path: Path) -> None:
    assert curves(tmp_path / "none.csv") == {}
    assert curves(write_metrics(tmp_path, 0)) == {}
    assert curves(write_metrics(tmp_path, 3)) == {"train/loss": [[0, 0], [1, 0.1], [2, 0.2]]}


@pytest.mark.parametrize("cut", ["0", "0,", "0,3", "0,3,", "0,3,0.", "0,3,12", "0,3,1.2e-"])
def test_a_row_that_is_being_written_does_not_count(tmp_path: Path, cut: str) -> None:
    assert curves(write_metrics(tmp_path, 3, cut=cut)) == curves(write_metrics(tmp_path, 3))


def test_a_header_that_is_being_written_is_no_curve(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(HEADER[:12])
    assert curves(tmp_path / "metrics.csv") == {}


@pytest.mark.parametrize("count", [299, 300, 301, 599, 10_007])
def test_a_long_curve_is_thinned_out_and_keeps_its_ends(tmp_path: Path, count: int) -> None:
    steps = [step for step, _ in curves(write_metrics(tmp_path, count))["train/loss"]]
    assert len(steps) == min(count, 300)
    assert (steps[0], steps[-1]) == (0, count - 1)
    gaps = {after - before for before, after in itertools.pairwise(steps)}
    assert max(gaps) - min(gaps) <= 1


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of owner/model in a cache of the Hub, which is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


def test_a_repository_of_the_hub_has_the_guidance_that_it_says(cached: Path) -> None:
    (cached / "sampling.json").write_text('{"guidance_scale": 4.5}')
    assert guidance_of("owner/model") == 4.5
    (cached / "sampling.json").write_text('{"guidance_scale": "much"}')
    with pytest.raises(InputError, match=r"sampling\.json: guidance_scale"):
        guidance_of("owner/model")


def test_a_repository_that_says_nothing_or_cannot_be_asked_is_no_error(
    cached: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (cached / "model_index.json").write_text("{}")
    assert guidance_of("owner/model") is None
    assert guidance_of("owner/other") is None
    assert capfd.readouterr() == ("", "")


def test_a_mixture_s_analysis_is_its_routing_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "mixture.json").write_text("{}")
    assert named_model(str(tmp_path)).routing is None
    write_analysis(tmp_path / "analysis.json", analysis())
    assert named_model(str(tmp_path)).routing == analysis().values()
    (tmp_path / "analysis.json").write_text("{}")
    with pytest.raises(InputError, match=r"analysis\.json: no analysis of this version"):
        named_model(str(tmp_path))
