"""Which layers, exactly as many weights as SD 2 has; their weights and inputs as matrices."""

from collections.abc import Callable

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from bksdm.errors import InputError
from bksdm.surgery.sparse.layers import (
    Layer,
    Selection,
    block_of,
    from_matrix,
    input_rows,
    matrix,
    prunable,
    stage_of,
)
from bksdm.surgery.sparse.statistics import (
    CalibrationBatch,
    Needs,
    in_forward_order,
    layer_inputs,
    packages,
)
from tests.conftest import tiny_pipeline, tiny_unet


@pytest.fixture(scope="module")
def sd2() -> list[nn.Module]:
    """Text encoder and U-Net of SD 2 at real size, without weights."""
    text = CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        projection_dim=512,
        hidden_act="gelu",
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=96,
            cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
        )
        return [CLIPTextModel(text), unet]


def weights(layers: dict[str, Layer]) -> int:
    """Number of them."""
    return sum(layer.weight.numel() for layer in layers.values())


def test_linear_layers_of_sd2_are_those_of_the_published_code(sd2: list[nn.Module]) -> None:
    assert [weights(each) for each in prunable(sd2, Selection())] == [289_406_976, 301_219_840]
    whole = [sum(p.numel() for p in network.parameters()) for network in sd2]
    assert whole == [340_387_840, 865_910_724]


def test_with_convolutions_all_but_biases_and_norms_of_the_unet_goes(sd2: list[nn.Module]) -> None:
    text, unet = prunable(sd2, Selection(layers="linear+conv"))
    assert (weights(text), weights(unet)) == (289_406_976, 301_219_840 + 564_247_040)


def test_patterns_fit_parts_of_names(sd2: list[nn.Module]) -> None:
    text, unet = prunable(sd2, Selection(include=("attn2", "mlp"), exclude=("down_blocks.0",)))
    assert all("attn2" in name and "down_blocks.0" not in name for name in unet)
    assert {name.rpartition(".")[2] for name in text} == {"fc1", "fc2"}
    assert len(prunable(sd2, Selection(include=("?_proj", "out_proj")))[0]) == 4 * 23


@pytest.mark.parametrize(
    ("setting", "pattern", "nearest"),
    [("exclude", "atn2", "attn2"), ("include", "down_block.0", "down_blocks.0")],
)
def test_a_pattern_that_fits_nothing_names_the_nearest(
    sd2: list[nn.Module], setting: str, pattern: str, nearest: str
) -> None:
    with pytest.raises(InputError, match=rf"{setting}={pattern}: .* the nearest is {nearest}$"):
        prunable(sd2, Selection(**{setting: (pattern,)}))


def test_nothing_left_is_told(sd2: list[nn.Module]) -> None:
    with pytest.raises(InputError, match="no layer is left to prune"):
        prunable(sd2, Selection(exclude=("*",)))
    with pytest.raises(InputError, match="layers=conv: expected one of linear, linear"):
        Selection(layers="conv")


@pytest.mark.parametrize(
    ("name", "stage", "block"),
    [
        ("encoder.layers.11.mlp.fc1", "encoder.layers.11", "encoder.layers.11"),
        (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            "down_blocks.1",
            "down_blocks.1.attentions.0",
        ),
        ("mid_block.resnets.1.conv1", "mid_block", "mid_block.resnets.1"),
        ("up_blocks.3.upsamplers.0.conv", "up_blocks.3", "up_blocks.3.upsamplers.0"),
        ("time_embedding.linear_1", "time_embedding", "time_embedding"),
        ("conv_in", "conv_in", "conv_in"),
    ],
)
def test_stages_and_blocks(name: str, stage: str, block: str) -> None:
    assert (stage_of(name), block_of(name)) == (stage, block)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4, bias=False), (3, 5, 6)),
        (nn.Linear(6, 4, bias=False), (3, 6)),
        (nn.Conv2d(6, 4, 3, padding=1, bias=False), (3, 6, 5, 5)),
        (nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False), (3, 6, 8, 8)),
        (nn.Conv2d(6, 4, 1, bias=False), (3, 6, 5, 5)),
    ],
)
def test_a_layer_is_its_matrix_times_its_input_rows(layer: Layer, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(shape)
    outputs = layer(inputs)
    rows = input_rows(layer, inputs)
    assert len(rows) == shape[0]
    found = rows @ matrix(layer.weight).T
    if isinstance(layer, nn.Conv2d):
        outputs = outputs.flatten(2).transpose(1, 2)
    torch.testing.assert_close(found.reshape(outputs.shape), outputs)
    assert torch.equal(from_matrix(matrix(layer.weight), layer.weight.shape), layer.weight)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    """A tiny one."""
    return tiny_pipeline("sd2")


def unet_batches(count: int) -> Callable[[], list[CalibrationBatch]]:
    """Calls of the tiny U-Net, two samples each."""

    def batches() -> list[CalibrationBatch]:
        rng = torch.Generator().manual_seed(3)
        return [
            CalibrationBatch(
                {
                    "sample": torch.randn(2, 4, 8, 8, generator=rng),
                    "timestep": torch.tensor([100, 900]),
                    "encoder_hidden_states": torch.randn(2, 5, 16, generator=rng),
                },
                progress=torch.tensor([0.9, 0.1]),
            )
            for _ in range(count)
        ]

    return batches


@torch.no_grad()
def naive_rows(network: nn.Module, name: str, batches: list[CalibrationBatch]) -> list[Tensor]:
    """All inputs of one layer, kept."""
    seen: list[Tensor] = []
    layer = network.get_submodule(name)
    handle = layer.register_forward_hook(
        lambda module, inputs, output: seen.append(input_rows(module, inputs[0]))
    )
    for batch in batches:
        network(**batch.call)
    handle.remove()
    return seen


@pytest.mark.parametrize(
    "name",
    [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "down_blocks.1.resnets.0.conv1",
        "mid_block.resnets.0.time_emb_proj",
    ],
)
def test_sums_equal_those_over_all_inputs_kept_in_memory(name: str) -> None:
    network, batches = tiny_unet("sd2"), unet_batches(6)
    layers = prunable([network], Selection(layers="linear+conv"))[0]
    ordered = in_forward_order(network, {name: layers[name]}, batches)
    found = layer_inputs(network, ordered, batches, needs=Needs.SQUARES)[name]
    rows = torch.cat([each.flatten(0, 1) for each in naive_rows(network, name, batches())])
    torch.testing.assert_close(found.squares, rows.double().square().sum(0), rtol=1e-5, atol=1e-8)
    assert (found.rows, found.samples) == (len(rows), 12)


def test_samples_are_weighed_by_how_far_their_denoising_has_come() -> None:
    network, batches = tiny_unet("sd2"), unet_batches(6)
    name = "down_blocks.0.resnets.0.conv1"
    layers = prunable([network], Selection(layers="linear+conv"))[0]
    found = layer_inputs(
        network, {name: layers[name]}, batches, needs=Needs.PRODUCTS, weights=lambda p: 1 + p
    )[name]
    weighed = 0.0
    for rows in naive_rows(network, name, batches()):
        weighed = weighed + 1.9 * rows[0].T @ rows[0] + 1.1 * rows[1].T @ rows[1]
    torch.testing.assert_close(found.products, weighed, rtol=1e-4, atol=1e-4)


def test_layers_come_in_the_order_of_the_forward_and_hooks_go() -> None:
    network = tiny_unet("sd2")
    layers = prunable([network], Selection(layers="linear+conv"))[0]
    order = [stage_of(name) for name in in_forward_order(network, layers, unet_batches(1))]
    stages = list(dict.fromkeys(order))
    assert stages[:2] == ["time_embedding", "conv_in"]
    assert stages.index("mid_block") < stages.index("up_blocks.0")
    assert stages[-1] == "conv_out"
    assert all(not module._forward_pre_hooks for module in network.modules())


def test_packages_are_stages_and_products_fit_their_limit(sd2: list[nn.Module]) -> None:
    layers = prunable(sd2, Selection(layers="linear+conv"))[1]
    assert len(packages(layers, Needs.SQUARES)) < 15
    for package in packages(layers, Needs.PRODUCTS):
        size = sum(4 * layer.weight[0].numel() ** 2 for layer in package.values())
        assert size <= 2 * 2**30 or len(package) == 1
        assert len({stage_of(name) for name in package}) == 1


def test_too_few_inputs_are_refused_where_more_would_help() -> None:
    network = tiny_unet("sd2")
    layers = prunable([network], Selection(layers="linear+conv"))[0]
    inner = {"mid_block.resnets.0.conv1": layers["mid_block.resnets.0.conv1"]}  # 1x1 latents
    wide = {"down_blocks.2.resnets.0.conv1": layers["down_blocks.2.resnets.0.conv1"]}
    layer_inputs(network, inner, unet_batches(1), needs=Needs.PRODUCTS)
    with pytest.raises(InputError, match="conv1 8 inputs of 144 columns"):
        layer_inputs(network, wide, unet_batches(1), needs=Needs.PRODUCTS)


def test_a_layer_that_is_not_called_is_named() -> None:
    network = tiny_unet("sd2")
    network.stray = nn.Linear(3, 3)
    with pytest.raises(InputError, match="does not reach stray"):
        in_forward_order(network, {"stray": network.stray}, unet_batches(1))
