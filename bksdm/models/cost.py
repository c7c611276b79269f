"""What networks and a training step cost: parameters and multiply-accumulates (MACs), counted on
the meta device without weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

_ATTENTION_OPS = ("scaled_dot_product", "bmm", "attention")


@dataclass(frozen=True)
class Cost:
    """Cost of one forward of a U-Net at batch 1.

    Attributes:
        parameters: number of weights.
        macs: convolutions, linear layers and attention products.
        macs_published: as the BK-SDM paper counts (thop's rules): without the attention products,
            but with four for each element that goes through a LayerNorm.
    """

    parameters: int
    macs: int
    macs_published: int


def parameter_count(module: nn.Module) -> int:
    """Number of weights of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def unet_cost(config: Mapping[str, Any], size: int | None = None, *, tokens: int = 77) -> Cost:
    """Cost of a U-Net on latents of `size` a side (None: its own `sample_size`), attending to
    `tokens` text states.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(config)).eval()
        size = size or config["sample_size"]
        width = config["cross_attention_dim"]
        width = width if isinstance(width, int) else width[0]
        latents = torch.empty(1, config["in_channels"], size, size)
        text = torch.empty(1, tokens, width)
        timestep = torch.empty(1, dtype=torch.long)
    normalised = 0

    def count_layer_norm(
        module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> None:
        del module, inputs
        nonlocal normalised
        normalised += output.numel()

    for module in unet.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(count_layer_norm)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(latents, timestep, text)
    flops = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(
        count for op, count in flops.items() if any(name in op for name in _ATTENTION_OPS)
    )
    total = sum(flops.values())
    return Cost(parameter_count(unet), total // 2, (total - attention) // 2 + 4 * normalised)


def vae_encoder_macs(config: Mapping[str, Any], resolution: int) -> int:
    """MACs of the VAE's encoder on one picture of `resolution` pixels a side."""
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(dict(config)).eval()
        pixels = torch.empty(1, config.get("in_channels", 3), resolution, resolution)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae.encode(pixels)
    return int(counter.get_total_flops() // 2)


def text_encoder_macs(config: Mapping[str, Any]) -> int:
    """MACs of the CLIP text encoder on one caption, which is always padded to all its tokens."""
    text_config = CLIPTextConfig(**config)
    with torch.device("meta"):
        encoder = CLIPTextModel(text_config).eval()
        tokens = torch.zeros(1, text_config.max_position_embeddings, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(input_ids=tokens)
    return int(counter.get_total_flops() // 2)


def step_flops(teacher_macs: int, student_macs: int) -> int:
    """Useful FLOPs of a distillation step for each image: 2 x (teacher + 3 x student), as a forward
    of either costs two FLOPs a MAC and the student's backward twice its forward.

    Model FLOPs utilisation (MFU) is counted in these. Not in it: the second forward of gradient
    checkpointing, VAE and text encoder (their results can be cached), losses, optimiser and EMA.
    """
    return 2 * (teacher_macs + 3 * student_macs)
