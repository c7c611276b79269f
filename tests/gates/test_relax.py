import pytest
import torch

from bksdm.gates.relax import Relaxation, gumbel_of, hardened, ordered_depths
from bksdm.surgery.sites import Sites, prunable_sites
from tests.conftest import tiny_unet


@pytest.fixture(scope="module")
def sites() -> Sites:
    return prunable_sites(tiny_unet("sd1"))


def logits(sites: Sites, rows: int = 3, *, size: float = 3.0) -> torch.Tensor:
    return size * torch.randn(rows, sites.gates, generator=torch.Generator().manual_seed(1)) - 3


def test_without_noise_gates_are_the_same_and_zero_logits_are_open(sites: Sites) -> None:
    relaxation, values = Relaxation(), logits(sites)
    assert relaxation.relaxed(values, sites).equal(relaxation.relaxed(values, sites))
    assert (relaxation.relaxed(torch.zeros(1, sites.gates), sites) > 0.5).all()


def test_a_width_is_kept_as_often_as_published(sites: Sites) -> None:
    """P(keep | l) = 1 - exp(-exp(l + 3))."""
    level = -3.37
    noise = gumbel_of(torch.arange(2000), sites.gates)
    gates = Relaxation().relaxed(torch.full((2000, sites.gates), level), sites, noise=noise)
    kept = (gates[:, : sites.units] > 0.5).float().mean()
    assert float(kept) == pytest.approx(0.5, abs=0.01)


def test_depths_go_in_the_published_order(sites: Sites) -> None:
    depths = ordered_depths(logits(sites)[:, sites.units :], sites)
    in_order = depths[:, list(sites.keeping)]
    assert torch.allclose(in_order[:, 0], torch.ones(3))
    assert (in_order.diff(dim=1) <= 0).all()
    masses = logits(sites)[:, sites.units :].softmax(1)
    assert torch.allclose(in_order[:, -1], masses[:, 0])


def test_hard_gates_keep_a_unit_a_site_and_have_the_soft_ones_gradient(sites: Sites) -> None:
    values = torch.full((2, sites.gates), -50.0, requires_grad=True)
    soft = Relaxation().relaxed(values, sites)
    hard = hardened(soft, sites)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert all((hard[:, where].sum(1) == 1).all() for where in sites.slices.values())
    (one,) = torch.autograd.grad(hard.sum(), soft)
    assert one.equal(torch.ones_like(one))


def test_noise_is_a_samples_own(sites: Sites) -> None:
    both = gumbel_of(torch.tensor([3, 5]), sites.gates)
    assert gumbel_of(torch.tensor([5]), sites.gates)[0].equal(both[1])
    assert float(both.mean()) == pytest.approx(0.5772, abs=0.1)
