"""Students in every layout's kinds, and readers of the original layout that are not ours."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from omegaconf import OmegaConf
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from bksdm.surgery.blocks import remove_blocks
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan
from tests.conftest import tiny_pipeline

UNEVEN = BlockPlan(down=((0,), (0, 1), (0,), (0,)), mid=True)  # layers_per_block is a list
UNEVEN_TINY = BlockPlan(down=((0, 1), (0,), (0, 1)), mid=False)
FULL = BlockPlan(down=((0, 1),) * 4, mid=True)
PLANS = {"full": FULL, "base": BASE, "small": SMALL, "tiny": TINY}
CONF = Path(__file__).parents[2] / "conf" / "teacher"
UNET = "model.diffusion_model."


def openclip(**own: Any) -> CLIPTextModel:
    """A tiny text encoder of SD 2's kind, but for what `own` says."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = CLIPTextConfig(
        **sizes, vocab_size=128, num_attention_heads=2, max_position_embeddings=20, **own
    )
    return CLIPTextModel(config)


def student(kind: str, plan: BlockPlan) -> StableDiffusionPipeline:
    """A tiny pipeline's student; SD 2's with its own kind of text encoder."""
    pipeline = tiny_pipeline(kind)
    pipeline.unet = remove_blocks(pipeline.unet, plan=plan)
    if kind == "sd2":
        pipeline.text_encoder = openclip(hidden_act="gelu")
    return pipeline


def real_size(name: str, plan: BlockPlan) -> StableDiffusionPipeline:
    """A named teacher's student without weights."""
    parts = [OmegaConf.load(CONF / "sd14.yaml")]
    if name != "sd14":
        parts.append(OmegaConf.load(CONF / f"{name}.yaml"))
    merged = OmegaConf.merge(*({"architecture": part["architecture"]} for part in parts))
    own: Any = OmegaConf.to_container(merged)["architecture"]
    pipeline = tiny_pipeline("sd1")
    with torch.device("meta"):
        pipeline.unet = remove_blocks(UNet2DConditionModel.from_config(own["unet"]), plan=plan)
        pipeline.vae = AutoencoderKL.from_config(own["vae"])
        pipeline.text_encoder = CLIPTextModel(CLIPTextConfig(**own["text_encoder"]))
    return pipeline


def assert_same(mine: Mapping[str, Tensor], module: nn.Module) -> None:
    """Fail unless the tensors are the module's, to the bit."""
    wanted = module.state_dict()
    assert set(mine) == set(wanted)
    for name, tensor in wanted.items():
        assert mine[name].shape == tensor.shape, name
        assert tensor.is_meta or torch.equal(mine[name], tensor), name


def converted(state: dict[str, Tensor], pipeline: StableDiffusionPipeline) -> list[dict[str, Any]]:
    """U-Net, VAE and text encoder as diffusers reads them out of the file."""
    text = pipeline.text_encoder
    if text.config.hidden_act == "gelu":
        clip = convert_open_clip_checkpoint(text, dict(state))
    else:
        clip = convert_ldm_clip_checkpoint(dict(state))
    return [
        convert_ldm_unet_checkpoint(dict(state), config=dict(pipeline.unet.config)),
        convert_ldm_vae_checkpoint(dict(state), config=dict(pipeline.vae.config)),
        {name.removeprefix("text_model."): tensor for name, tensor in clip.items()},
    ]


def naive_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The U-Net read back without a config: blocks in the order of their numbers, a stage ends with
    its sampler.
    """
    resnet = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
    places = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    inner = dict(zip((*places, "skip_connection"), resnet, strict=True))
    result = {}

    def read(block: str, name: str, layer: int) -> None:
        for key, tensor in state.items():
            if match := re.fullmatch(rf"{block}\.0\.(.+)\.(weight|bias)", key):
                result[f"{name}.resnets.{layer}.{inner[match[1]]}.{match[2]}"] = tensor
            elif match := re.fullmatch(rf"{block}\.1\.(?!conv)(.+)", key):
                result[f"{name}.attentions.{layer}.{match[1]}"] = tensor

    for half, name, sampler in (
        ("input", "down", r"\.0\.op\."),
        ("output", "up", r"\.[12]\.conv\."),
    ):
        found = {int(m[1]) for k in state if (m := re.match(rf"{UNET}{half}_blocks\.(\d+)\.", k))}
        stage = layer = 0
        for number in sorted(found - ({0} if half == "input" else set())):
            block = re.escape(f"{UNET}{half}_blocks.{number}")
            sampling = [key for key in state if re.match(block + sampler, key)]
            if any(re.match(rf"{block}\.0\.in_layers", key) for key in state):
                read(block, f"{name}_blocks.{stage}", layer)
                layer += 1
            for key in sampling:
                place = f"{name}_blocks.{stage}.{name}samplers.0.conv.{key.rpartition('.')[2]}"
                result[place] = state[key]
            if sampling:
                stage, layer = stage + 1, 0
    for key in [key for key in state if key.startswith(f"{UNET}middle_block.")]:
        if key.startswith(f"{UNET}middle_block.2."):
            break
        read(re.escape(f"{UNET}middle_block"), "mid_block", 0)
    seconds = {k.replace("middle_block.2.", "second.0."): t for k, t in state.items()}
    for key, tensor in seconds.items():
        if match := re.fullmatch(rf"{re.escape(UNET)}second\.0\.(.+)\.(weight|bias)", key):
            result[f"mid_block.resnets.1.{inner[match[1]]}.{match[2]}"] = tensor
    fixed = {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
    fixed |= {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
    for place, name in fixed.items():
        result |= {f"{name}.{p}": state[f"{UNET}{place}.{p}"] for p in ("weight", "bias")}
    return result


def own_config(module: Any) -> dict[str, Any]:
    """A config whose changes count: with its private entries diffusers puts defaults back."""
    return {name: value for name, value in module.config.items() if not name.startswith("_")}
