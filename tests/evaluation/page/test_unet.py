"""Drawings of U-Nets."""

from dataclasses import asdict, replace
from xml.etree import ElementTree as ET

import pytest

from bksdm.evaluation.page.models import Model
from bksdm.evaluation.page.unet import unet_drawing
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan
from bksdm.surgery.shares import sites_of_config
from bksdm.surgery.width import WidthPlan
from tests.evaluation.page.world import shapes_result, teacher_unet

MODEL = Model("w", "runs/x", "x", 1, 1, baseline=False)


# Of SD-1.4: 20 resnets and 15 attentions in stages, the mid block has 2 and 1 more. The published
# students drop 8 and 6, then the mid block, then the rest of the innermost stage (1 + 2 resnets).
@pytest.mark.parametrize(
    ("plan", "kept", "dropped"),
    [(None, 38, 0), (BASE, 24, 14), (SMALL, 21, 17), (TINY, 18, 20)],
)
def test_sd14_has_the_published_blocks(plan: BlockPlan | None, kept: int, dropped: int) -> None:
    config = teacher_unet("sd14")
    values = None if plan is None else asdict(plan) | {"teacher": config}
    result = replace(shapes_result("x", 1), plan=values, unet=config)
    drawn = unet_drawing(MODEL, result)
    assert drawn is not None
    svg = ET.fromstring(drawn.svg)
    kinds = [rect.get("class") for rect in svg.iter("rect")]
    assert (kinds.count("kept"), kinds.count("dropped")) == (kept, dropped)
    title = svg.find("title")
    assert title is not None
    assert title.text == f"U-Net of x: {drawn.dropped}"
    assert title.get("id") == svg.get("aria-labelledby")
    assert "1280 at 8" in "".join(svg.itertext())


def test_words_count_what_went() -> None:
    config = teacher_unet("sd14")
    result = replace(shapes_result("x", 1), plan=asdict(TINY) | {"teacher": config})
    drawn = unet_drawing(MODEL, result)
    assert drawn is not None
    assert drawn.dropped == (
        "drops 11 of 20 resnets, 6 of 15 attentions and the mid block; 1 innermost stage is gone"
        " whole"
    )
    assert "down 3  [. R] [. R]" in drawn.text


def test_no_drawing_of_what_is_not_known() -> None:
    nothing = replace(shapes_result("x", 1), plan=None, unet={})
    assert unet_drawing(MODEL, nothing) is None
    foreign = replace(
        nothing, plan={"down": [[0], [7]], "mid": True, "teacher": teacher_unet("sd14")}
    )
    assert unet_drawing(MODEL, foreign) is None


def test_everything_is_inside_the_drawing() -> None:
    drawn = unet_drawing(MODEL, shapes_result("runs/small", 2))
    assert drawn is not None
    svg = ET.fromstring(drawn.svg)
    width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
    for rect in svg.iter("rect"):
        x, y = float(rect.get("x", -1)), float(rect.get("y", -1))
        assert 0 <= x <= width - float(rect.get("width", 0))
        assert 0 <= y <= height - float(rect.get("height", 0))


def test_a_narrow_unet_is_filled_as_far_as_it_stays() -> None:
    config = teacher_unet("sd14")
    sites = sites_of_config(config)
    plan = WidthPlan(
        kept={site.name: tuple(range(site.units // 2)) for site in sites.width if not site.depth},
        dropped=tuple(site.name for site in sites.depth[:2]),
    )
    values = asdict(plan) | {"teacher": config}
    drawn = unet_drawing(MODEL, replace(shapes_result("x", 1), plan=values, unet=config))
    assert drawn is not None
    assert drawn.dropped.startswith("keeps ")
    assert drawn.dropped.endswith(", drops 2 of 38 modules")
    halves = [
        rect for rect in ET.fromstring(drawn.svg).iter("rect") if rect.get("height") == "7.25"
    ]
    assert len(halves) == len(
        {site.name.split(".transformer")[0] for site in sites.width if not site.depth}
    )
    assert "down 0  resnet groups 16 of 64 (25 %)" in drawn.text
