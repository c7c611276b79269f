from typing import get_args

import pytest
import torch
from diffusers import UNet2DConditionModel

from bksdm.gates.attach import Position, gated
from bksdm.surgery.narrow import narrow
from bksdm.surgery.sites import prunable_sites
from bksdm.surgery.width import gates_of
from tests.conftest import WIDTH, tiny_unet
from tests.surgery.test_width import answer, lively, some_plan


@pytest.mark.parametrize("position", get_args(Position))
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_ones_change_nothing(kind: str, position: Position) -> None:
    unet = lively(kind)
    sites = prunable_sites(unet)
    with gated(unet, sites, torch.ones(2, sites.gates), position=position):
        inside = answer(unet)
    assert torch.equal(inside, answer(unet))


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_closed_gates_equal_the_cut_network(kind: str) -> None:
    unet = lively(kind)
    sites = prunable_sites(unet)
    plan = some_plan(sites)
    with gated(unet, sites, gates_of(plan, sites)[None]):
        inside = answer(unet)
    torch.testing.assert_close(inside, answer(narrow(unet, plan)), atol=1e-5, rtol=1e-5)


def test_the_published_position_leaves_the_bias_of_its_norm() -> None:
    """Where APTP's code gates a residual block, what is masked is not what is cut."""
    unet = lively("sd1")
    sites = prunable_sites(unet)
    gates = torch.ones(1, sites.gates)
    resnet = next(site for site in sites.width if site.kind == "resnet")
    gates[0, sites.slices[resnet.name].start] = 0
    with gated(unet, sites, gates, position="norm2"):
        published = answer(unet)
    with gated(unet, sites, gates):
        ours = answer(unet)
    assert (published - ours).abs().max() > 1e-3
    # Heads and feed-forwards: hard gates agree in both positions.
    others = torch.ones(1, sites.gates)
    for site in sites.width:
        if site.kind != "resnet":
            others[0, sites.slices[site.name].start] = 0
    answers = []
    for position in get_args(Position):
        with gated(unet, sites, others, position=position):
            answers.append(answer(unet))
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)


def test_each_sample_has_its_own_gates() -> None:
    unet = lively("sd2")
    sites = prunable_sites(unet)
    each = torch.stack([gates_of(some_plan(sites, seed=seed), sites) for seed in (1, 2)])
    with gated(unet, sites, each):
        together = answer(unet)
    for row in range(2):
        with gated(unet, sites, each[row : row + 1]):
            torch.testing.assert_close(answer(unet)[row], together[row], atol=1e-5, rtol=1e-5)


def test_a_batch_for_guidance_repeats_the_gates() -> None:
    unet = lively("sd1")
    sites = prunable_sites(unet)
    gates = torch.rand(2, sites.gates, generator=torch.Generator().manual_seed(0))
    latents, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, WIDTH)
    with gated(unet, sites, gates), torch.no_grad():
        once = unet(latents, 7, text).sample
        twice = unet(latents.repeat(2, 1, 1, 1), 7, text.repeat(2, 1, 1)).sample
    torch.testing.assert_close(twice, once.repeat(2, 1, 1, 1), atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_gate() -> None:
    unet = lively("sd1").requires_grad_(requires_grad=False)
    sites = prunable_sites(unet)
    gates = torch.full((2, sites.gates), 0.5, requires_grad=True)
    with gated(unet, sites, gates):
        unet(torch.randn(2, 4, 8, 8), 7, torch.randn(2, 5, WIDTH)).sample.square().sum().backward()
    assert gates.grad is not None
    assert (gates.grad != 0).all()


def _hooks(unet: UNet2DConditionModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


@pytest.mark.parametrize("position", get_args(Position))
def test_hooks_come_off(position: Position) -> None:
    unet = tiny_unet("sd2")
    sites = prunable_sites(unet)

    def fail() -> None:
        with gated(unet, sites, torch.ones(1, sites.gates), position=position):
            assert _hooks(unet) > len(sites.width)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert _hooks(unet) == 0


def test_gates_of_another_network_are_refused() -> None:
    unet = tiny_unet("sd1")
    sites = prunable_sites(unet)
    with pytest.raises(ValueError, match="expected"), gated(unet, sites, torch.ones(1, 3)):
        pass
