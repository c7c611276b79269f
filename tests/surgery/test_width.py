import pytest
import torch
from diffusers import UNet2DConditionModel

from bksdm.errors import InputError
from bksdm.models.cost import parameter_count
from bksdm.surgery.narrow import fill_masked, masked, narrow
from bksdm.surgery.plans import cut, empty, from_json
from bksdm.surgery.scores import magnitudes
from bksdm.surgery.sites import Sites, prunable_sites
from bksdm.surgery.width import WidthPlan, aligned, gates_of, plan_of
from tests.conftest import WIDTH, tiny_unet
from tests.golden import SD1, SD2


def answer(unet: UNet2DConditionModel) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 5, WIDTH, generator=rng)
    with torch.no_grad():
        return unet.eval()(latents, torch.tensor([3, 700]), text).sample


def some_plan(sites: Sites, *, seed: int = 1, drop: bool = True) -> WidthPlan:
    """Keeps about six in ten, and drops some modules."""
    rng = torch.Generator().manual_seed(seed)
    gates = (torch.rand(sites.gates, generator=rng) > 0.4).float()
    for site in sites.width:
        gates[sites.slices[site.name].start] = 1
    if not drop:
        gates[sites.units :] = 1
    return plan_of(gates, sites)


def lively(kind: str) -> UNet2DConditionModel:
    """A U-Net of which no bias is zero: what stays of a cut unit would be seen."""
    unet, rng = tiny_unet(kind), torch.Generator().manual_seed(2)
    for weight in unet.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=rng)
    return unet


def test_sd21_has_the_published_number_of_sites() -> None:
    with torch.device("meta"):
        sites = prunable_sites(UNet2DConditionModel.from_config(SD2))
    assert (sites.units, len(sites.depth), sites.gates) == (1606, 14, 1620)
    published = [-1, -2, 0, 1, -3, -4, 2, 3, -5, -6, 4, 5, -7, 6]
    assert [position % 14 for position in published] == list(sites.keeping)
    heads = [site.units for site in sites.width if site.kind == "heads"]
    assert (min(heads), max(heads)) == (5, 20)
    assert {site.units for site in sites.width if site.kind != "heads"} == {32}


def test_order_of_the_sites() -> None:
    with torch.device("meta"):
        names = [site.name for site in prunable_sites(UNet2DConditionModel.from_config(SD1)).width]
    transformer = "down_blocks.0.attentions.0.transformer_blocks.0"
    assert names[:5] == [
        "down_blocks.0.resnets.0",
        "down_blocks.0.resnets.1",
        *(f"{transformer}.{layer}" for layer in ("attn1", "attn2", "ff")),
    ]
    assert [name for name in names if name.startswith("mid")][:2] == [
        "mid_block.resnets.0",
        "mid_block.resnets.1",
    ]


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("seed", [1, 2])
def test_masked_equals_narrow(kind: str, seed: int) -> None:
    unet = lively(kind)
    plan = some_plan(prunable_sites(unet), seed=seed)
    assert plan.dropped
    cut_, full = narrow(unet, plan), masked(unet, plan)
    assert parameter_count(cut_) < 0.9 * parameter_count(unet)
    assert {n: t.shape for n, t in full.state_dict().items()} == {
        n: t.shape for n, t in unet.state_dict().items()
    }
    torch.testing.assert_close(answer(cut_), answer(full), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(answer(cut_), answer(unet), atol=1e-2)


def test_every_kind_of_site_alone() -> None:
    unet = lively("sd1")
    sites = prunable_sites(unet)
    for kind in ("resnet", "heads", "feed_forward"):
        kept = {site.name: (0,) for site in sites.width if site.kind == kind}
        plan = WidthPlan(kept=kept)
        torch.testing.assert_close(
            answer(narrow(unet, plan)), answer(masked(unet, plan)), atol=1e-5, rtol=1e-5
        )
    for site in sites.depth:
        plan = WidthPlan(dropped=(site.name,))
        small = narrow(unet, plan)
        assert site.name not in {n.rpartition(".")[0] for n in small.state_dict()}
        torch.testing.assert_close(answer(small), answer(masked(unet, plan)), atol=1e-5, rtol=1e-5)


def test_the_teacher_is_left_as_it_is() -> None:
    unet = lively("sd2")
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    narrow(unet, some_plan(prunable_sites(unet)))
    masked(unet, some_plan(prunable_sites(unet)))
    assert all(torch.equal(tensor, before[n]) for n, tensor in unet.state_dict().items())


def test_keeping_everything_changes_nothing() -> None:
    unet = lively("sd1")
    assert torch.equal(answer(narrow(unet, WidthPlan())), answer(unet))


def test_trained_weights_of_an_expert_fill_a_full_size_one() -> None:
    unet = lively("sd2")
    plan = some_plan(prunable_sites(unet))
    expert = narrow(unet, plan)
    for weight in expert.parameters():
        weight.data += 0.05
    whole = lively("sd2")
    fill_masked(whole, expert, plan)
    torch.testing.assert_close(answer(whole), answer(expert), atol=1e-5, rtol=1e-5)


def test_a_plan_is_a_value() -> None:
    unet = tiny_unet("sd1")
    sites = prunable_sites(unet)
    plan = some_plan(sites)
    assert from_json(plan.to_json()) == plan
    assert plan_of(gates_of(plan, sites), sites) == plan
    shapes = {n: t.shape for n, t in cut(unet, plan).state_dict().items()}
    assert {n: t.shape for n, t in empty(unet.config, plan).state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({"kept": {"mid_block.resnets.7": [0]}}, "does not have"),
        ({"kept": {"mid_block.resnets.0": [0, 99]}}, "units there"),
        ({"kept": {"mid_block.resnets.0": []}}, "at least one"),
        ({"kept": {"mid_block.resnets.0": [1, 0]}}, "increasing"),
        ({"kept": {"mid_block.resnets.0": None}}, "as `bksdm route`"),
        ({"dropped": ["mid_block.resnets.0"]}, "cannot go"),
    ],
)
def test_what_is_no_plan_is_refused(plan: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        narrow(tiny_unet("sd1"), WidthPlan(**plan))


def test_other_unets_are_refused() -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        resnet_time_scale_shift="scale_shift",
    )
    with pytest.raises(InputError, match="resnet_time_scale_shift"):
        prunable_sites(unet)


def test_aligned_channels_are_multiples_of_eight() -> None:
    unet = lively("sd1")
    sites = prunable_sites(unet)
    plan = aligned(some_plan(sites), sites, 8)
    for site in sites.width:
        units = plan.kept.get(site.name, tuple(range(site.units)))
        assert len(units) == site.units or len(units) * site.size % 8 == 0
        assert set(some_plan(sites).kept.get(site.name, ())) <= set(units)


def test_magnitudes_are_of_the_weights_that_go_with_a_unit() -> None:
    unet = lively("sd2")
    sites = prunable_sites(unet)
    site = next(site for site in sites.width if site.kind == "resnet")
    block = unet.get_submodule(site.name)
    rows = slice(site.size, 2 * site.size)
    with torch.no_grad():
        for weight in (block.conv1.weight, block.time_emb_proj.weight, block.norm2.weight):
            weight[rows] *= 3
        block.conv2.weight[:, rows] *= 3
        heads = next(site for site in sites.width if site.kind == "heads" and site.units > 1)
        inner = unet.get_submodule(heads.name)
        inner.to_q.weight[: heads.size] *= 0.5
    scores = magnitudes(unet, sites)
    assert scores[sites.slices[site.name]].argmax() == 1
    assert scores[sites.slices[heads.name]].argmin() == 0
    torch.testing.assert_close(scores[sites.slices[site.name]].square().mean(), torch.tensor(1.0))
