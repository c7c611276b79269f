"""Tiny CLIP and DINOv2 with random weights, as folders of the published layouts."""

import json
import shutil
from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
)

from bksdm.evaluation.measure import Pictures
from bksdm.evaluation.measures.inputs import CLIP_MEAN, CLIP_STD
from bksdm.evaluation.prompts import Prompt
from bksdm.models.source import embedded_folder

TEXTS = (
    "a red circle",
    "a large blue square above a small green cross",
    "a triangle",
    "two yellow circles " * 40,  # longer than the network reads
    "a small red square",
)
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def shuffled(network: torch.nn.Module) -> torch.nn.Module:
    """Large enough weights that every part of the network shows in its output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.eval()


def clip_config(act: str = "gelu") -> CLIPConfig:
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer")
    shared = {**WIDTHS, "num_attention_heads": 2, "hidden_act": act, "projection_dim": 24}
    return CLIPConfig(
        projection_dim=24,
        vision_config={**shared, "image_size": 28, "patch_size": 7},
        text_config={
            **shared,
            "intermediate_size": 128,  # open_clip's four times the width
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )


def clip_folder(folder: Path) -> CLIPModel:
    """A whole CLIP in transformers' layout."""
    network = shuffled(CLIPModel(clip_config()))
    network.save_pretrained(folder)
    CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer").save_pretrained(folder)
    settings = {"crop_size": 28, "size": 28, "resample": 3}
    settings |= {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return network


def open_clip_state(network: CLIPModel) -> dict[str, torch.Tensor]:
    """The same weights under open_clip's names, by its modules rather than by patterns."""
    found = {"logit_scale": network.logit_scale}
    for prefix, half, layers in (
        ("visual.", network.vision_model, network.vision_model.encoder.layers),
        ("", network.text_model, network.text_model.encoder.layers),
    ):
        position = half.embeddings.position_embedding.weight
        found[f"{prefix}positional_embedding"] = position
        for i, layer in enumerate(layers):
            block = f"{prefix}transformer.resblocks.{i}"
            own = layer.self_attn
            for kind in ("weight", "bias"):
                parts = [getattr(each, kind) for each in (own.q_proj, own.k_proj, own.v_proj)]
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
                found[f"{block}.attn.out_proj.{kind}"] = getattr(own.out_proj, kind)
                found[f"{block}.ln_1.{kind}"] = getattr(layer.layer_norm1, kind)
                found[f"{block}.ln_2.{kind}"] = getattr(layer.layer_norm2, kind)
                found[f"{block}.mlp.c_fc.{kind}"] = getattr(layer.mlp.fc1, kind)
                found[f"{block}.mlp.c_proj.{kind}"] = getattr(layer.mlp.fc2, kind)
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = getattr(network.vision_model.pre_layrnorm, kind)
        found[f"visual.ln_post.{kind}"] = getattr(network.vision_model.post_layernorm, kind)
        found[f"ln_final.{kind}"] = getattr(network.text_model.final_layer_norm, kind)
    embeddings = network.vision_model.embeddings
    found["visual.class_embedding"] = embeddings.class_embedding
    found["visual.conv1.weight"] = embeddings.patch_embedding.weight
    found["visual.proj"] = network.visual_projection.weight.T
    found["token_embedding.weight"] = network.text_model.embeddings.token_embedding.weight
    found["text_projection"] = network.text_projection.weight.T
    return {name: value.detach().clone() for name, value in found.items()}


def open_clip_folder(folder: Path, source: Path, network: CLIPModel) -> None:
    """The same network in open_clip's layout; `source` has its tokenizer."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    torch.save(open_clip_state(network), folder / "open_clip_pytorch_model.bin")
    vision, text = network.config.vision_config, network.config.text_config
    model = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))


def dinov2_folder(folder: Path) -> Dinov2Model:
    network = shuffled(
        Dinov2Model(
            Dinov2Config(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                mlp_ratio=2,
                image_size=35,
                patch_size=7,
            )
        )
    )
    network.save_pretrained(folder)
    return network


def bert_tokenizer(folder: Path) -> None:
    """A word each for what the prompts say."""
    folder.mkdir(exist_ok=True)
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)


def pictures(side: int = 40) -> Pictures:
    """One for each text."""
    generator = torch.Generator().manual_seed(1)
    shape = (len(TEXTS), 3, side, side)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return Pictures(tuple(Prompt(f"{i:06d}", text, i) for i, text in enumerate(TEXTS)), pixels)


def rows(whole: Pictures, chosen: list[int]) -> Pictures:
    return Pictures(tuple(whole.prompts[i] for i in chosen), whole.pixels[chosen])
