from pathlib import Path

import pytest
import torch
from torch import Tensor

from bksdm.errors import InputError
from bksdm.export.router import MEANING, SavedRouter, read_router, write_router
from bksdm.gates.relax import Relaxation
from bksdm.gates.router import Router, Sinkhorn, linked, similarities
from bksdm.surgery.sites import Sites, prunable_sites
from tests.conftest import tiny_unet

WIDTH = 40


@pytest.fixture(scope="module")
def sites() -> Sites:
    return prunable_sites(tiny_unet("sd2"))


@pytest.fixture
def router(sites: Sites) -> Router:
    made = Router(sites, experts=4, width=WIDTH, relaxation=Relaxation(), seed=3)
    with torch.no_grad():
        made.codes.mul_(20).sub_(3)
        made.predictor.weight.mul_(3)
        made.predictor.bias.sub_(3)
    return made


def embeddings(count: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(4))


def test_rows_of_a_site_begin_orthogonal(sites: Sites) -> None:
    fresh = Router(sites, experts=4, width=WIDTH, relaxation=Relaxation())
    for where in sites.slices.values():
        rows = fresh.predictor.weight[where].detach()
        assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)
    assert torch.allclose(fresh.codes @ fresh.codes.T, torch.eye(4), atol=1e-5)


def test_sinkhorn_shares_a_batch_out_equally() -> None:
    similarity = 0.2 * torch.rand(24, 4, generator=torch.Generator().manual_seed(0))
    similarity[:, 2] += 0.1  # all would go there
    assert (similarity.argmax(1) == 2).float().mean() > 0.6
    shares = Sinkhorn(epsilon=0.05, iterations=3).shares(similarity)
    assert torch.allclose(shares.sum(1), torch.ones(24, dtype=torch.float64))
    assert torch.allclose(shares.sum(0) / 24, torch.full((4,), 0.25).double(), atol=0.01)
    exact = Sinkhorn(epsilon=0.05, iterations=100).shares(similarity)
    assert torch.allclose(exact.sum(0) / 24, torch.full((4,), 0.25).double(), atol=1e-6)


def test_sinkhorn_of_two_processes_is_that_of_all_rows() -> None:
    similarity = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    whole = Sinkhorn(iterations=1)
    # In lock step one process would see the other's sums; after one iteration they are known.
    both = torch.exp((similarity.double() - 1) / whole.epsilon).sum(0)
    sums = iter([torch.tensor(8.0).double(), both])
    part = whole.shares(similarity[:4], summed=lambda _: next(sums))
    assert torch.allclose(part, whole.shares(similarity)[:4])


def test_a_prompt_is_routed_the_same_in_any_batch_at_any_place(router: Router) -> None:
    prompts = embeddings(200)
    whole = router.route(prompts)
    assert len(whole.unique()) > 1
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert router.route(prompts[shuffled]).equal(whole[shuffled])
    assert torch.cat([router.route(prompts[i : i + 1]) for i in range(200)]).equal(whole)
    padded = torch.cat([embeddings(3), prompts])
    assert router.route(padded)[3:].equal(whole)


def test_sites_weigh_the_same_whatever_their_width(sites: Sites) -> None:
    one = torch.ones(2, sites.gates)
    one[1, next(iter(sites.slices.values()))] = 0
    length = (len(sites.width) + len(sites.depth)) ** 0.5
    found = similarities(one[:1], one[1:], sites)
    assert float(found) == pytest.approx((length**2 - 1) ** 0.5 / length)


def test_a_linked_choice_is_one_hot_with_the_gradient_of_the_similarities() -> None:
    similarity = torch.tensor([[0.1, 0.3], [0.5, 0.2]], requires_grad=True)
    chosen = linked(torch.tensor([0, 0]), similarity, temperature=0.1)
    assert chosen.tolist() == [[1, 0], [1, 0]]
    chosen[:, 0].sum().backward()
    assert similarity.grad is not None
    assert (similarity.grad[:, 0] > 0).all()
    assert (similarity.grad[:, 1] < 0).all()


def test_a_router_comes_back_from_its_files(router: Router, tmp_path: Path) -> None:
    router.standardise(embeddings(50).mean(0), embeddings(50).std(0))
    router.offsets[1] = -torch.inf
    saved = SavedRouter(
        router=router, encoder={"name": "x"}, teacher={}, plans=("experts/0", None, None, None)
    )
    write_router(tmp_path, saved)
    read = read_router(tmp_path)
    assert read.router.route(embeddings(40)).equal(router.route(embeddings(40)))
    assert (read.router.sites, read.plans) == (router.sites, saved.plans)
    assert 1 not in read.router.route(embeddings(40))
    (tmp_path / MEANING).write_text("{}")
    with pytest.raises(InputError, match="expected format 1"):
        read_router(tmp_path)
    with pytest.raises(InputError, match=r"no router\.json; expected the folder `router` of a run"):
        read_router(tmp_path / "nowhere")
