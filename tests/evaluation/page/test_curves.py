"""Curves of training and of the denoising loss."""

from dataclasses import replace
from pathlib import Path

from bksdm.evaluation.page.page import page
from bksdm.evaluation.page.sources import sources
from tests.evaluation.page.world import shapes_result, write_evaluation


def test_a_logarithmic_axis_is_labelled_in_plain_numbers(tmp_path: Path) -> None:
    falling = {"train/loss": [[step, 100 / (1 + step) ** 2] for step in range(20)]}
    result = replace(shapes_result("runs/a", 1), curves=falling)
    html = page(sources([str(write_evaluation(result, tmp_path / "a", number=1))]), title=None)
    assert "log scale" in html
    assert "mathdefault" not in html
    assert ">100</text>" in html
