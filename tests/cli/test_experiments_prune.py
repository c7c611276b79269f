"""The sweeps of `bksdm prune`: the published grids, and that every version of them can be made."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import bksdm.conf
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from bksdm.cli.pruning import curves_of, method_of
from bksdm.evaluation.pruning.grid import Curve, Point
from bksdm.evaluation.pruning.sweep import configurations

Cli = Callable[..., int]
FOLDER = Path(bksdm.conf.__file__).parent
# arXiv 2411.15113's own grids (shared/facts/pruning-and-metrics.md, A.3 and A.4), in %.
TEXT = [30, 40, 50, 55, 57.5, 60, 62.5, 65, 67.5, 70, 80]
UNET = [10, 20, 30, 35, 37.5, 40, 42.5, 45, 47.5, 50, 52.5, 55, 57.5, 60]
BOTH = [(unet + 12.5, unet) for unet in (30, 32.5, 35, 37.5, 40, 42.5, 45, 47.5, 50)]
TOTALS = [  # text encoder, U-Net, nominal total
    *[(18, 21, 20), (35, 14, 20), (53, 7, 20), (27, 31, 30), (53, 21, 30), (80, 10, 30)],
    *[(35, 42, 40), (71, 28, 40), (44, 52, 50), (89, 35, 50), (53, 63, 60)],
]
SD2 = (340_387_840, 865_910_724)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(FOLDER.resolve()), version_base="1.2"):
        return compose("prune", overrides=list(overrides))


@pytest.fixture(scope="module")
def grids() -> dict[str, Curve]:
    """Of sd2_grid."""
    config = composed("experiment=sd2_grid", "calibration.prompts.path=a.txt")
    return {curve.name: curve for curve in curves_of(config)}


def percents(curve: Curve, name: str) -> list[float]:
    return [round(100 * getattr(point, name), 6) for point in curve.grid.points]


def test_sd2_grid_is_the_published_text_encoder_with_its_four_criteria(
    grids: dict[str, Curve],
) -> None:
    curve = grids["text_encoder"]
    assert (percents(curve, "text_encoder"), set(percents(curve, "unet"))) == (TEXT, {0})
    assert set(curve.methods) == {"magnitude", "owl_magnitude", "wanda", "owl_wanda"}


def test_sd2_grid_is_the_published_unet_with_magnitude(grids: dict[str, Curve]) -> None:
    curve = grids["unet"]
    assert (percents(curve, "unet"), set(percents(curve, "text_encoder"))) == (UNET, {0})
    assert set(curve.methods) == {"magnitude"}


def test_sd2_grid_has_both_published_approaches_to_the_whole(grids: dict[str, Curve]) -> None:
    found = {
        name: list(
            zip(percents(grids[name], "text_encoder"), percents(grids[name], "unet"), strict=True)
        )
        for name in ("both", "fixed_totals")
    }
    assert found["both"] == BOTH
    assert found["fixed_totals"] == [(text, unet) for text, unet, _ in TOTALS]
    for name in found:
        methods = grids[name].methods
        assert {label: {c: m.name for c, m in own.items()} for label, own in methods.items()} == {
            "magnitude": {"text_encoder": "magnitude", "unet": "magnitude"},
            "owl_magnitude+magnitude": {"text_encoder": "owl_magnitude", "unet": "magnitude"},
        }
    assert not grids["fixed_totals"].line
    assert all(curve.selection.layers == "linear" for curve in grids.values())


def test_the_published_totals_weigh_requested_sparsities_by_whole_sizes() -> None:
    for text, unet, total in TOTALS:
        nominal = (text * SD2[0] + unet * SD2[1]) / sum(SD2)
        assert nominal == pytest.approx(total, abs=0.7)


@pytest.mark.parametrize("name", ["sd2_grid", "shapes_grid", "shapes_quick"])
def test_every_version_of_a_sweep_can_be_asked_for(name: str) -> None:
    data = ["calibration.prompts.path=a.txt"] * (name == "sd2_grid")
    config = composed(f"experiment={name}", *data)
    curves = curves_of(config)
    made = configurations(curves, 0)
    for _, configuration in made:
        for component, share in configuration.point.pruned.items():
            configuration.methods[component].budget(share)
    names = [(curve, each.label, str(each.point), each.selection.words) for curve, each in made]
    assert len(set(names)) == len(names)
    for curve in curves:
        along = [axis(point, curve.grid.along) for point in curve.grid.points]
        assert not curve.line or all(a < b for a, b in pairwise(along))


def axis(point: Point, along: str) -> float:
    return point.text_encoder + point.unet if along == "both" else float(getattr(point, along))


def test_criteria_of_a_sweep_are_named_as_their_methods() -> None:
    """Or tables would call one thing two names."""
    for name in ("shapes_grid", "shapes_quick"):
        criteria: Any = composed(f"experiment={name}").criteria
        for key, node in criteria.items():
            assert method_of(node, key).name == key
