"""Names of a VAE's and a text encoder's tensors in the layout of the original Stable Diffusion
releases.

Knows how diffusers, transformers, latent-diffusion and OpenCLIP name the modules of both. Knows
nothing of weights or files.
"""

from collections.abc import Iterable
from typing import Final

from bksdm.errors import InputError
from bksdm.export.original_names import Config, Places, check_stock, inner_places, names

_VAE: Final = "first_stage_model."
_CLIP: Final = "cond_stage_model.transformer.text_model."
_OPEN_CLIP: Final = "cond_stage_model.model."
_VAE_STOCK: Final = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
_VAE_RESNET: Final = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
_VAE_ATTENTION: Final = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP_LAYER: Final = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
} | {
    f"self_attn.{part}_proj.{kind}": f"attn.in_proj_{kind}"
    for part in "qkv"
    for kind in ("weight", "bias")
}


def vae_names(config: Config, tensors: Iterable[str]) -> dict[str, str]:
    """Original name of each tensor of an AutoencoderKL with this config.

    Raises:
        InputError: the layout has no place for it.
    """
    check_stock(config, _VAE_STOCK, part="vae")
    return names(tensors, _vae_places(config), prefix=_VAE, part="vae")


def text_names(config: Config, tensors: Iterable[str]) -> dict[str, str]:
    """Original name of each tensor of a CLIPTextModel with this config. In OpenCLIP's layout q, k
    and v, three tensors, share a name: they are stacked. `position_ids`, a constant that older
    transformers keep among the tensors, gets none.

    Raises:
        InputError: the layout has no place for it.
    """
    open_clip = is_open_clip(config)
    prefix = _OPEN_CLIP if open_clip else _CLIP
    places = _open_clip_places(config) if open_clip else _clip_places(config)
    # transformers before 5.6 keeps all but the projection in a module `text_model`.
    own = {name: name.removeprefix("text_model.") for name in tensors}
    kept = [name for name in own.values() if name != "embeddings.position_ids"]
    found = names(kept, places, prefix=prefix, part="text_encoder")
    return {name: found[short] for name, short in own.items() if short in found}


def is_open_clip(config: Config) -> bool:
    """Whether a text encoder is of SD 2's kind, OpenCLIP, and not of SD 1's, OpenAI's CLIP: readers
    take each place's activation for granted.

    Raises:
        InputError: it is neither.
    """
    kinds = {"quick_gelu": False, "gelu": True}
    activation = config["hidden_act"]
    if activation not in kinds:
        raise InputError(
            f"text_encoder.hidden_act={activation!r}: the original layout has quick_gelu (SD 1) and"
            " gelu (SD 2); export a diffusers folder instead"
        )
    return kinds[activation]


def _vae_places(config: Config) -> Places:
    wanted = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
    for types, kind in wanted.items():
        if set(config[types]) != {kind}:
            raise InputError(
                f"vae.{types}={list(config[types])}: the original layout has {kind} alone; export a"
                " diffusers folder instead"
            )
    stages, layers = len(config["down_block_types"]), config["layers_per_block"]
    result = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        same = {part: part for part in ("conv_in", "conv_out")}
        result |= inner_places(same | {"conv_norm_out": "norm_out"}, half, half)
        for which in (0, 1):
            mid, place = f"{half}.mid_block.resnets.{which}", f"{half}.mid.block_{which + 1}"
            result |= inner_places(_VAE_RESNET, mid, place)
        attention = f"{half}.mid_block.attentions.0"
        result |= inner_places(_VAE_ATTENTION, attention, f"{half}.mid.attn_1")
    for stage in range(stages):
        down, place = f"encoder.down_blocks.{stage}", f"encoder.down.{stage}"
        for layer in range(layers):
            result |= inner_places(_VAE_RESNET, f"{down}.resnets.{layer}", f"{place}.block.{layer}")
        result[f"{down}.downsamplers.0.conv"] = f"{place}.downsample.conv"
        # The original numbers both halves from the picture inwards.
        up, place = f"decoder.up_blocks.{stages - 1 - stage}", f"decoder.up.{stage}"
        for layer in range(layers + 1):
            result |= inner_places(_VAE_RESNET, f"{up}.resnets.{layer}", f"{place}.block.{layer}")
        result[f"{up}.upsamplers.0.conv"] = f"{place}.upsample.conv"
    return result


def _clip_places(config: Config) -> Places:
    parts = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
    attention = (f"self_attn.{part}_proj" for part in ("q", "k", "v", "out"))
    same = {part: part for part in (*parts, *attention)}
    fixed = ("embeddings.token_embedding", "embeddings.position_embedding", "final_layer_norm")
    result = {part: part for part in fixed}
    for layer in range(config["num_hidden_layers"]):
        result |= inner_places(same, f"encoder.layers.{layer}", f"encoder.layers.{layer}")
    return result


def _open_clip_places(config: Config) -> Places:
    result = {
        "embeddings.token_embedding": "token_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm": "ln_final",
    }
    for layer in range(config["num_hidden_layers"]):
        name, place = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        result |= inner_places(_OPEN_CLIP_LAYER, name, place)
    return result
