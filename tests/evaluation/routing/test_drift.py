from copy import deepcopy

import torch

from bksdm.evaluation.routing.drift import drifts
from bksdm.gates.relax import Relaxation
from bksdm.gates.router import Router
from bksdm.surgery.sites import prunable_sites
from tests.conftest import WIDTH, tiny_unet


def test_drift_is_the_share_of_prompts_that_go_elsewhere() -> None:
    sites = prunable_sites(tiny_unet("sd1"))
    router = Router(sites, experts=3, width=WIDTH, relaxation=Relaxation(), seed=1)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        router.codes.add_(torch.randn(router.codes.shape, generator=rng) * 5)
        router.predictor.weight.mul_(20)
    embeddings = torch.randn(50, WIDTH, generator=rng)
    moved, before = deepcopy(router), router.route(embeddings)
    assert len(before.unique()) > 1
    moved.offsets[2] = 10  # all go there
    same, away = drifts([(30, moved), (10, router), (20, deepcopy(router))], embeddings)
    assert (same.earlier, same.later, same.share, same.prompts) == (10, 20, 0, 50)
    assert (away.earlier, away.later) == (20, 30)
    assert away.share == float((before != 2).double().mean())
    assert drifts([(10, router)], embeddings) == ()
