"""Names of a U-Net's tensors in the layout of the original Stable Diffusion releases.

Knows how diffusers and latent-diffusion number the blocks of a U-Net. Knows nothing of weights,
files or plans.
"""

from collections.abc import Iterable
from typing import Final

from bksdm.errors import InputError
from bksdm.export.original_names import Config, Places, check_stock, inner_places, names
from bksdm.surgery.blocks import layers_per_stage

_UNET: Final = "model.diffusion_model."
_ATTENDS: Final = {
    "DownBlock2D": False,
    "UpBlock2D": False,
    "CrossAttnDownBlock2D": True,
    "CrossAttnUpBlock2D": True,
}
# What all readers take for granted. Another value has tensors without a place, or the same tensors
# and another meaning.
_UNET_STOCK: Final = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
_UNET_FIXED: Final = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET: Final = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TRANSFORMER: Final = (
    *("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"),
    *(f"attn{i}.{part}" for i in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")),
)


def unet_names(config: Config, tensors: Iterable[str], *, gaps: bool = False) -> dict[str, str]:
    """Original name of each tensor of a U-Net with this config.

    Args:
        config: of the U-Net, defaults filled in.
        tensors: their diffusers names.
        gaps: number the blocks as if removed ones were still there, as stable-diffusion.cpp wants
            a Tiny; all others count what there is.

    Raises:
        InputError: the layout has no place for it.
    """
    check_stock(config, _UNET_STOCK, part="unet")
    return names(tensors, _unet_places(config, gaps=gaps), prefix=_UNET, part="unet")


def _unet_places(config: Config, *, gaps: bool) -> Places:
    attends = _attending_stages(config)
    layers, depths = layers_per_stage(config), _depths(config)
    mid = config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None
    if gaps and (mid or layers != (1, 1, 1)):
        raise InputError(
            f"layers {list(layers)}, mid block {mid}: block numbers with gaps are for"
            " stable-diffusion.cpp, whose small U-Net has layers [1, 1, 1] and no mid block"
            " (student=tiny)"
        )
    result = dict(_UNET_FIXED)
    block = 1
    for stage, count in enumerate(layers):
        down, depth = f"down_blocks.{stage}", depths[stage] if attends[stage] else 0
        for layer in range(count):
            result |= _layer(down, layer, f"input_blocks.{block}", depth=depth)
            block += 1
        block += gaps
        result[f"{down}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
        block += 1
    if mid:
        result |= _layer("mid_block", 0, "middle_block", depth=depths[-1])
        result |= inner_places(_UNET_RESNET, "mid_block.resnets.1", "middle_block.2")
    block = 0
    for position, stage in enumerate(reversed(range(len(layers)))):
        up, depth = f"up_blocks.{position}", depths[stage] if attends[stage] else 0
        for layer in range(layers[stage] + 1):
            result |= _layer(up, layer, f"output_blocks.{block}", depth=depth)
            block += 1
        if gaps:  # the innermost stage of SD 1 and 2 had no attention, so its upsampler was the 1
            place, block = f"{block}.{2 if depth and position else 1}", block + 1
        else:
            place = f"{block - 1}.{2 if depth else 1}"
        result[f"{up}.upsamplers.0.conv"] = f"output_blocks.{place}.conv"
    return result


def _attending_stages(config: Config) -> list[bool]:
    """Whether each stage attends, outermost first."""
    down, up = config["down_block_types"], config["up_block_types"]
    unknown = [kind for kind in (*down, *up) if kind not in _ATTENDS]
    attends = [_ATTENDS.get(kind, False) for kind in down]
    mirrored = [_ATTENDS.get(kind, False) for kind in reversed(up)]
    middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if unknown or attends != mirrored or middle not in ("UNetMidBlock2DCrossAttn", None):
        raise InputError(
            f"unet blocks {list(down)}, {middle}, {list(up)}: the original layout has"
            f" {', '.join(_ATTENDS)} and UNetMidBlock2DCrossAttn or none, with up blocks that"
            " mirror the down blocks; export a diffusers folder instead"
        )
    return attends


def _depths(config: Config) -> list[int]:
    """Number of transformer blocks of an attention, by stage."""
    depth, stages = config.get("transformer_layers_per_block", 1), len(config["down_block_types"])
    depths = [depth] * stages if isinstance(depth, int) else list(depth)
    if not all(isinstance(each, int) for each in depths):
        raise InputError(
            f"unet.transformer_layers_per_block={depth!r}: expected one number, or one a stage;"
            " export a diffusers folder instead"
        )
    return depths


def _layer(name: str, layer: int, place: str, *, depth: int) -> Places:
    """A resnet and, with `depth` transformer blocks, the attention behind it."""
    result = inner_places(_UNET_RESNET, f"{name}.resnets.{layer}", f"{place}.0")
    if depth:
        blocks = (f"transformer_blocks.{i}.{part}" for i in range(depth) for part in _TRANSFORMER)
        same = {part: part for part in ("norm", "proj_in", "proj_out", *blocks)}
        result |= inner_places(same, f"{name}.attentions.{layer}", f"{place}.1")
    return result
