"""Which names there are in the original layout, and what has none."""

import re
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from bksdm.errors import InputError
from bksdm.export.original import original_state
from bksdm.surgery.plan import SMALL, TINY
from tests.conftest import tiny_pipeline, tiny_unet
from tests.export.original_readers import (
    FULL,
    UNET,
    assert_same,
    converted,
    openclip,
    own_config,
    real_size,
    student,
)


def test_gaps_are_where_stable_diffusion_cpp_looks() -> None:
    names = {
        match[1]
        for name in original_state(real_size("sd14", TINY), gaps=True)
        if (match := re.match(UNET + r"((?:in|out)put_blocks\.\d+\.(?:0\.op|\d(?:\.conv)?))", name))
    }
    inputs = {f"input_blocks.{i}" for i in (1, 4, 7)}
    outputs = {f"output_blocks.{i}" for i in (0, 1, 3, 4, 6, 7)}
    assert names == (
        {"input_blocks.0.0", "input_blocks.3.0.op", "input_blocks.6.0.op"}
        | {f"{block}.{part}" for block in inputs | outputs for part in (0, 1)}
        | {"output_blocks.2.1.conv", "output_blocks.5.2.conv"}
    )


def test_gaps_are_refused_where_nothing_reads_them() -> None:
    with pytest.raises(InputError, match="student=tiny"):
        original_state(student("sd1", SMALL), gaps=True)


def test_published_sd1_names_and_shapes() -> None:
    state = original_state(real_size("sd14", FULL))
    counts = {"model.": 686, "first_stage_model.": 248, "cond_stage_model.": 196}
    assert {p: sum(name.startswith(p) for name in state) for p in counts} == counts
    text = "cond_stage_model.transformer.text_model."
    golden = {
        f"{UNET}time_embed.2.bias": (1280,),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        f"{UNET}input_blocks.3.0.op.weight": (320, 320, 3, 3),
        f"{UNET}input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        f"{UNET}input_blocks.11.0.emb_layers.1.weight": (1280, 1280),
        f"{UNET}middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        f"{UNET}output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        f"{UNET}output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        f"{UNET}output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        f"{UNET}out.2.weight": (4, 320, 3, 3),
        "first_stage_model.encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
        "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "first_stage_model.decoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "first_stage_model.decoder.up.3.block.0.norm1.weight": (512,),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.post_quant_conv.weight": (4, 4, 1, 1),
        f"{text}embeddings.position_embedding.weight": (77, 768),
        f"{text}encoder.layers.11.self_attn.out_proj.weight": (768, 768),
        f"{text}final_layer_norm.bias": (768,),
    }
    assert {name: tuple(state[name].shape) for name in golden} == golden


def test_published_sd2_names_and_shapes() -> None:
    state = original_state(real_size("sd21_base", FULL))
    text = "cond_stage_model.model."
    golden = {
        f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        f"{UNET}middle_block.1.proj_in.weight": (1280, 1280),
        f"{text}positional_embedding": (77, 1024),
        f"{text}token_embedding.weight": (49408, 1024),
        f"{text}ln_final.weight": (1024,),
        f"{text}transformer.resblocks.22.attn.in_proj_weight": (3072, 1024),
        f"{text}transformer.resblocks.0.attn.in_proj_bias": (3072,),
        f"{text}transformer.resblocks.0.mlp.c_fc.weight": (4096, 1024),
        f"{text}transformer.resblocks.0.ln_2.bias": (1024,),
    }
    assert {name: tuple(state[name].shape) for name in golden} == golden
    assert sum(name.startswith(text) for name in state) == 4 + 23 * 12


def test_small_and_tiny_have_no_middle_block() -> None:
    for plan in (SMALL, TINY):
        assert not any("middle_block" in name for name in original_state(student("sd1", plan)))


def test_a_deep_transformer_has_its_place() -> None:
    pipeline = tiny_pipeline("sd1")
    config = own_config(pipeline.unet) | {"transformer_layers_per_block": [1, 2, 3, 1]}
    pipeline.unet = UNet2DConditionModel.from_config(config)
    assert_same(converted(original_state(pipeline), pipeline)[0], pipeline.unet)


def test_position_ids_of_older_transformers_go() -> None:
    pipeline = student("sd1", TINY)
    ids = pipeline.text_encoder.embeddings.position_ids
    before = set(original_state(pipeline))
    pipeline.text_encoder.embeddings.register_buffer("position_ids", ids, persistent=True)
    assert set(original_state(pipeline)) == before


@pytest.mark.parametrize(
    "own",
    [
        {"class_embed_type": "timestep"},
        {"num_class_embeds": 3},
        {"resnet_time_scale_shift": "scale_shift"},
        {"only_cross_attention": True},
        {"freq_shift": 1},
        {"down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("AttnDownBlock2D",)},
        {"up_block_types": ("UpBlock2D",) * 2 + ("CrossAttnUpBlock2D",) * 2},
        {"mid_block_type": "UNetMidBlock2D"},
    ],
)
def test_a_unet_without_a_place_is_refused(own: dict[str, Any]) -> None:
    pipeline = tiny_pipeline("sd1")
    pipeline.unet = UNet2DConditionModel.from_config(own_config(tiny_unet("sd1")) | own)
    with pytest.raises(InputError, match="export a diffusers folder instead"):
        original_state(pipeline)


def test_tensors_of_adapters_are_refused() -> None:
    for name in ("adapter.weight", "lora"):
        pipeline = tiny_pipeline("sd1")
        module = pipeline.unet.mid_block.attentions[0].proj_in
        if "." in name:
            module.adapter = nn.Linear(1, 1)
        else:
            module.register_parameter(name, nn.Parameter(torch.zeros(1)))
        with pytest.raises(InputError, match=f"proj_in.{name}: the original layout has no place"):
            original_state(pipeline)


def test_other_vaes_and_text_encoders_are_refused() -> None:
    pipeline = tiny_pipeline("sd1")
    config = own_config(pipeline.vae)
    pipeline.vae = AutoencoderKL.from_config(config | {"use_quant_conv": False})
    with pytest.raises(InputError, match=r"vae\.use_quant_conv=False"):
        original_state(pipeline)
    pipeline = tiny_pipeline("sd1")
    pipeline.text_encoder = openclip(hidden_act="relu")
    with pytest.raises(InputError, match=r"text_encoder\.hidden_act='relu'"):
        original_state(pipeline)
