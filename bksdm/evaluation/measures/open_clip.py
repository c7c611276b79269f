"""Checkpoints of open_clip as transformers' `CLIPModel`: the same network under other names."""

import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from transformers import CLIPConfig

from bksdm.errors import InputError
from bksdm.evaluation.measures.inputs import CLIP_MEAN, CLIP_STD, Fit, Input

WEIGHTS: Final = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
CONFIG: Final = "open_clip_config.json"

_HEAD_WIDTH: Final = 64  # open_clip's default
_VISION: Final = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size"}
_TEXT: Final = {"context_length", "vocab_size", "width", "heads", "layers"}

_NAMES: Final = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
# open_clip multiplies from the right by these.
_PROJECTIONS: Final = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}


def clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights under transformers' names, float32."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = value.to(torch.float32)
        if name in _PROJECTIONS:
            found[_PROJECTIONS[name]] = tensor.T.contiguous()
            continue
        own = name
        for pattern, replacement in _NAMES:
            own = re.sub(pattern, replacement, own)
        together = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", own)
        if together is None:
            found[own] = tensor
            continue
        for part, rows in zip("qkv", tensor.chunk(3), strict=True):
            found[f"{together[1]}.self_attn.{part}_proj.{together[2]}"] = rows.clone()
    return found


def clip_config(settings: Mapping[str, Any], *, of: str) -> CLIPConfig:
    """The network that an `open_clip_config.json` describes.

    Raises:
        InputError: another one than a plain CLIP of two transformers.
    """
    model = settings["model_cfg"]
    vision, text = model["vision_cfg"], model["text_cfg"]
    other = sorted(
        (set(vision) - _VISION)
        | (set(text) - _TEXT)
        | (set(model) - {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"})
    )
    if other:
        raise InputError(
            f"weights {of}: {CONFIG} has {', '.join(other)}; expected a plain CLIP of two"
            " transformers, or weights in transformers' layout"
        )
    shared = {
        "projection_dim": model["embed_dim"],
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
    }
    width = vision["width"]
    return CLIPConfig(
        projection_dim=model["embed_dim"],
        vision_config=shared
        | {
            "hidden_size": width,
            "intermediate_size": int(width * vision.get("mlp_ratio", 4)),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": width // vision.get("head_width", _HEAD_WIDTH),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        text_config=shared
        | {
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "eos_token_id": text["vocab_size"] - 1,
        },
    )


def open_clip_input(settings: Mapping[str, Any]) -> Input:
    """The preprocessing that an `open_clip_config.json` describes: open_clip's for evaluation."""
    preprocess = settings.get("preprocess_cfg", {})
    return Input(
        size=settings["model_cfg"]["vision_cfg"]["image_size"],
        fit=Fit.SHORTEST,
        mean=tuple(preprocess.get("mean", CLIP_MEAN)),
        std=tuple(preprocess.get("std", CLIP_STD)),
    )
