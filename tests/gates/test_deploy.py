import pytest
import torch

from bksdm.gates.budget import Budget
from bksdm.gates.deploy import even_offsets, fitted_gates, mean_macs
from bksdm.gates.relax import Relaxation
from bksdm.surgery.sites import prunable_sites
from bksdm.surgery.width import gates_of, plan_of
from tests.conftest import tiny_unet

SHARES = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


@pytest.fixture(scope="module")
def budget() -> Budget:
    unet = tiny_unet("sd1")
    return Budget.of(unet.config, prunable_sites(unet), 8)


def margins(budget: Budget) -> torch.Tensor:
    logits = torch.randn(3, budget.sites.gates, generator=torch.Generator().manual_seed(0)) - 3
    return Relaxation().margins(logits, budget.sites)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.6, 0.83, 1.0])
def test_codes_cost_what_they_should_to_a_unit(budget: Budget, share: float) -> None:
    target = max(share * budget.total, budget.least())
    gates = fitted_gates(margins(budget), SHARES, budget, target=target)
    mean = mean_macs(gates, SHARES, budget)
    assert mean <= target * (1 + 1e-6)
    # Nothing that is closed in a module that stays would fit.
    sites = budget.sites
    above = torch.cat([gates, torch.ones(3, 1)], 1)[:, sites.depth_of_units]
    closed = (gates[:, : sites.units] == 0) & (above > 0)
    costs = (SHARES[:, None] * budget.unit)[closed]
    assert not len(costs) or float(costs.min()) > target - mean
    for row in gates:  # at least a unit a site, or it would be no plan
        plan = plan_of(row, sites)
        assert float(budget.macs(gates_of(plan, sites)[None])) == pytest.approx(
            float(budget.macs(row[None]))
        )


def test_a_budget_that_nothing_meets_is_an_error(budget: Budget) -> None:
    with pytest.raises(ValueError, match="no codes cost as little"):
        fitted_gates(margins(budget), SHARES, budget, target=0.99 * budget.least())


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_offsets_make_shares_even_however_alike_the_codes_are(size: float) -> None:
    rng = torch.Generator().manual_seed(0)
    scores = 0.9 + size * torch.rand(400, 5, generator=rng, dtype=torch.float64)
    scores[:, 0] += 0.6 * size
    counts = torch.randint(1, 4, (400,), generator=rng)
    assert torch.bincount(scores.argmax(1), minlength=5)[0] > 200
    places = (scores + even_offsets(scores, counts)).argmax(1)
    shares = torch.bincount(places, weights=counts.double(), minlength=5) / counts.sum()
    assert torch.allclose(shares, torch.full((5,), 0.2).double(), atol=0.01)


def test_codes_that_are_one_get_no_offsets() -> None:
    assert not even_offsets(torch.ones(9, 3), torch.ones(9)).any()
