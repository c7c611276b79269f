"""Published values, as far as they can be counted again."""

import pytest

from bksdm.evaluation.page.published import published
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan
from tests.evaluation.page.world import cost

FOUND = published("coco30k_bksdm")
assert FOUND is not None
MODELS = {model.name: model for model in FOUND.models}


@pytest.mark.parametrize(
    ("name", "teacher", "plan"),
    [
        ("SD v1.4", "sd14", None),
        ("BK-SDM-Base", "sd14", BASE),
        ("BK-SDM-Small-2M", "sd14", SMALL),
        ("BK-SDM-Tiny", "sd14", TINY),
        ("SD v2.1-base", "sd21_base", None),
        ("BK-SDM-v2-Tiny", "sd21_base", TINY),
    ],
)
def test_sizes_are_what_the_architectures_have(
    name: str, teacher: str, plan: BlockPlan | None
) -> None:
    total = cost(teacher, plan)["unet"]["total"]
    assert MODELS[name].parameters == total["parameters"]
    if MODELS[name].macs_published is not None:
        assert MODELS[name].macs_published == total["macs_published"]


def test_every_published_score_has_a_name_of_ours() -> None:
    assert FOUND is not None
    assert {score for model in FOUND.models for score in model.scores} == set(FOUND.names)
    assert FOUND.name("Inception Score") == "IS"
    assert FOUND.name("latent MSE") is None


def test_other_protocols_have_none() -> None:
    assert published("shapes") is None
