import math

import pytest
import torch

from bksdm.errors import InputError
from bksdm.losses.routing import RoutingWeights, contrastive_loss, resource_loss


def test_the_contrastive_term_is_the_plain_double_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    gates = torch.rand(5, 7, generator=rng)
    embeddings = torch.randn(5, 3, generator=rng)

    def softmaxes(rows: torch.Tensor) -> list[list[float]]:
        found = []
        for one in rows:
            cosines = [float(one @ other / (one.norm() * other.norm())) for other in rows]
            powers = [math.exp((cosine - max(cosines)) / 0.03) for cosine in cosines]
            found.append([power / sum(powers) for power in powers])
        return found

    total = 0.0
    for ours, theirs in zip(softmaxes(gates), softmaxes(embeddings), strict=True):
        for s, z in zip(ours, theirs, strict=True):
            total -= z * max(math.log(s), -100) + (1 - z) * math.log1p(-s)
    assert float(contrastive_loss(gates, embeddings)) == pytest.approx(total / 25, rel=1e-4)


def test_the_contrastive_term_is_computed_outside_autocast() -> None:
    rows = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    expected = contrastive_loss(rows, rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss(rows, rows).equal(expected)


def test_only_the_mean_should_be_the_target() -> None:
    assert float(resource_loss(torch.tensor([0.2, 0.6]), 0.4)) == pytest.approx(0, abs=1e-6)
    assert float(resource_loss(torch.tensor([0.8]), 0.4)) == pytest.approx(math.log(2))


def test_a_weight_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"method\.weights\.spread=-1: expected a number"):
        RoutingWeights(spread=-1)
