import pytest
import torch
from torch import nn

from bksdm.evaluation.routing.heat import in_forward_order, kept_shares
from bksdm.surgery.sites import prunable_sites
from bksdm.surgery.width import WidthPlan
from tests.conftest import WIDTH, tiny_unet


def test_the_order_is_that_of_the_forward() -> None:
    unet = tiny_unet("sd2")
    sites, called = prunable_sites(unet), []
    for site in sites.width:

        def hook(module: nn.Module, *_: object, name: str = site.name) -> None:
            called.append(name)

        unet.get_submodule(site.name).register_forward_hook(hook)
    with torch.no_grad():
        unet(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 7, WIDTH))
    assert [site.name for site in in_forward_order(sites)] == called


def test_shares_are_those_of_the_plan() -> None:
    sites = prunable_sites(tiny_unet("sd1"))
    gone = "up_blocks.1.attentions.2"
    plan = WidthPlan(kept={"down_blocks.0.resnets.0": (0, 2, 3)}, dropped=(gone,))
    shares = dict(
        zip([s.name for s in in_forward_order(sites)], kept_shares(plan, sites), strict=True)
    )
    assert shares.pop("down_blocks.0.resnets.0") == pytest.approx(3 / 4)
    inside = [shares.pop(name) for name in list(shares) if name.startswith(gone)]
    assert inside == [0, 0, 0]
    assert set(shares.values()) == {1}
