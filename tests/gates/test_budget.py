import pytest
import torch
from diffusers import UNet2DConditionModel

from bksdm.gates.budget import Budget
from bksdm.models.cost import module_costs, unet_cost
from bksdm.surgery.narrow import empty_narrow
from bksdm.surgery.sites import Sites, prunable_sites
from bksdm.surgery.width import WidthPlan, gates_of
from tests.conftest import WIDTH, tiny_unet
from tests.golden import SD2
from tests.surgery.test_width import some_plan


def sites_of(config: dict[str, object]) -> Sites:
    with torch.device("meta"):
        return prunable_sites(UNet2DConditionModel.from_config(config))


def counted(config: dict[str, object], plan: WidthPlan, size: int) -> int:
    """By hooks, of the cut network."""
    with torch.device("meta"):
        unet = empty_narrow(config, plan).eval()
        latents, text = torch.empty(1, 4, size, size), torch.empty(1, 77, WIDTH)
        timestep = torch.empty(1, dtype=torch.long)
    return module_costs(unet, lambda: unet(latents, timestep, text))[""].macs


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("seed", [1, 2])
def test_macs_are_those_of_the_cut_network(kind: str, seed: int) -> None:
    config = dict(tiny_unet(kind).config)
    sites = sites_of(config)
    budget = Budget.of(config, sites, 16)
    plan = some_plan(sites, seed=seed)
    gates = gates_of(plan, sites)[None]
    assert float(budget.macs(gates)) == counted(config, plan, 16)
    assert float(budget.macs(torch.ones(1, sites.gates))) == unet_cost(config, 16).macs


def test_sd21_at_768_by_both_rules() -> None:
    config = {**SD2, "sample_size": 96}
    sites = sites_of(config)
    true = Budget.of(config, sites, 96)
    published = Budget.of(config, sites, 96, counting="published")
    assert round(true.total / 1e9, 1) == 1074.6
    assert round(published.total / 1e9, 1) == 1384.1  # printed: 1,384.2
    ones = torch.ones(1, sites.gates)
    assert float(published.macs(ones)) == pytest.approx(published.total)
    assert float(published.ratio(ones)) == 1
    assert 0.8 < published.prunable / published.total < 0.95


def test_the_target_is_on_total_macs() -> None:
    config = dict(tiny_unet("sd1").config)
    sites = sites_of(config)
    budget = Budget.of(config, sites, 8)
    gates = gates_of(some_plan(sites), sites)[None]
    share = float(budget.macs(gates)) / budget.total
    assert budget.prunable_target(share) == pytest.approx(float(budget.ratio(gates)))


def test_least() -> None:
    config = dict(tiny_unet("sd2").config)
    sites = sites_of(config)
    budget = Budget.of(config, sites, 8)
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        gates = gates_of(some_plan(sites, seed=int(torch.randint(99, (), generator=rng))), sites)
        assert budget.least() < float(budget.macs(gates[None]))
    assert budget.least() < budget.least(depth=False) < budget.total


def test_macs_are_differentiable() -> None:
    config = dict(tiny_unet("sd1").config)
    sites = sites_of(config)
    budget = Budget.of(config, sites, 8)
    gates = torch.full((3, sites.gates), 0.5, requires_grad=True)
    budget.macs(gates).sum().backward()
    assert gates.grad is not None
    assert (gates.grad > 0).all()
