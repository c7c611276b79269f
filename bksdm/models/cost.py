"""What networks and a training step cost: parameters and multiply-accumulates (MACs), counted on
the meta device without weights.

There are two conventions, and both are given. `macs` is what the arithmetic needs: convolutions,
linear layers and the two products of attention. `macs_published` is what BK-SDM and its followers
print (thop's rules): convolutions, linear layers and four for each element that goes through a
LayerNorm, but no product of attention. Normalisations and activations are in neither.
"""

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

LAYER_NORM_MACS: Final = 4  # of an element, by thop's rules

# Parts of a diffusers U-Net in the order of the forward, and the stage that each belongs to. What
# is not named here (conv_in, the embeddings of timestep, class and size) comes before the stages.
_STAGES: Final = {
    "down_blocks": "down",
    "mid_block": "mid",
    "up_blocks": "up",
    "conv_norm_out": "out",
    "conv_act": "out",
    "conv_out": "out",
}
_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks")
_ORDER: Final = ("in", *dict.fromkeys(_STAGES.values()))


@dataclass(frozen=True)
class Cost:
    """Cost of one forward at batch 1.

    Attributes:
        parameters: number of weights.
        macs: convolutions, linear layers and attention products.
        macs_published: as the BK-SDM paper counts (thop's rules): without the attention products,
            but with four for each element that goes through a LayerNorm.
    """

    parameters: int
    macs: int
    macs_published: int

    def __add__(self, other: "Cost") -> "Cost":
        """Cost of both, which share no weights."""
        return Cost(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.macs_published + other.macs_published,
        )


NOTHING: Final = Cost(0, 0, 0)


@dataclass(frozen=True)
class UnetCost:
    """Cost of one forward of a U-Net at batch 1.

    Attributes:
        total: of the whole.
        stages: by stage in the order of the forward: "in" (first convolution and embeddings),
            "down 0", ..., "mid" if there is one, "up 0", ..., "out". They add up to the total.
    """

    total: Cost
    stages: dict[str, Cost]


def parameter_count(module: nn.Module) -> int:
    """Number of weights of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def module_costs(network: nn.Module, run: Callable[[], object]) -> dict[str, Cost]:
    """Cost of every module of a network by its name ("" is the whole), counted while `run` calls
    it on one sample.
    """
    published: Counter[str] = Counter()
    # torch's counter does not know the fused attention of CPUs; the plain one is two products.
    plain = sdpa_kernel(SDPBackend.MATH)
    with ExitStack() as hooks, plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm):
                hooks.enter_context(module.register_forward_hook(_adding(name, published)))
        run()
    flops = counter.get_flop_counts()
    root = type(network).__name__
    return {
        name: Cost(
            parameter_count(module),
            sum(flops.get(f"{root}.{name}" if name else "Global", {}).values()) // 2,
            published[name],
        )
        for name, module in network.named_modules()
    }


def _adding(name: str, published: Counter[str]) -> Callable[..., None]:
    parts = name.split(".")
    holders = [".".join(parts[:depth]) for depth in range(len(parts) + 1)]

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        del inputs
        if isinstance(module, nn.LayerNorm):
            macs = LAYER_NORM_MACS * output.numel()
        else:  # an element of the output is a product with one row of the weight, or one kernel
            assert isinstance(module.weight, torch.Tensor)
            macs = output.numel() * module.weight[0].numel()
        for holder in holders:
            published[holder] += macs

    return add


def weightless(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy on the meta device, in eval mode and without hooks; the weights are not copied."""
    told: dict[int, object] = {}
    for tensor in [*unet.parameters(), *unet.buffers()]:
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        told[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    for module in unet.modules():
        told |= {id(vars(module)[hooks]): OrderedDict() for hooks in _HOOKS}
    return copy.deepcopy(unet, told).eval()


def unet_module_cost(
    unet: UNet2DConditionModel, size: int | None = None, *, tokens: int = 77
) -> UnetCost:
    """Cost of a U-Net as it is, also of one that is narrower than its config says, on latents of
    `size` a side (None: its own `sample_size`), attending to `tokens` text states.
    """
    unet, config = weightless(unet).float(), unet.config
    size = size or config["sample_size"]
    width = config["cross_attention_dim"]
    width = width if isinstance(width, int) else width[0]
    with torch.device("meta"):
        latents = torch.empty(1, config["in_channels"], size, size)
        text = torch.empty(1, tokens, width)
        timestep = torch.empty(1, dtype=torch.long)
    costs = module_costs(unet, lambda: unet(latents, timestep, text))
    stages: dict[str, Cost] = {}
    children = dict(unet.named_children())
    for child in sorted(children, key=lambda name: _ORDER.index(_STAGES.get(name, "in"))):
        stage = _STAGES.get(child, "in")
        if isinstance(children[child], nn.ModuleList):
            many = {f"{stage} {i}": f"{child}.{i}" for i, _ in enumerate(unet.get_submodule(child))}
        else:
            many = {stage: child}
        for place, name in many.items():
            stages[place] = stages.get(place, NOTHING) + costs[name]
    return UnetCost(costs[""], stages)


def unet_cost_by_stage(
    config: Mapping[str, Any], size: int | None = None, *, tokens: int = 77
) -> UnetCost:
    """`unet_module_cost` of a U-Net with this config, which is not built."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(config))
    return unet_module_cost(unet, size, tokens=tokens)


def unet_cost(config: Mapping[str, Any], size: int | None = None, *, tokens: int = 77) -> Cost:
    """The total of `unet_cost_by_stage`."""
    return unet_cost_by_stage(config, size, tokens=tokens).total


def vae_encoder_macs(config: Mapping[str, Any], resolution: int) -> int:
    """MACs of the VAE's encoder on one picture of `resolution` pixels a side."""
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(dict(config)).eval()
        pixels = torch.empty(1, config.get("in_channels", 3), resolution, resolution)
    return module_costs(vae, lambda: vae.encode(pixels))[""].macs


def vae_decoder_cost(config: Mapping[str, Any], size: int) -> Cost:
    """Cost of the VAE's decoder on latents of `size` a side.

    Without `post_quant_conv` (20 weights in Stable Diffusion), as the published 49,490,179
    parameters are.
    """
    with torch.device("meta"):
        decoder = AutoencoderKL.from_config(dict(config)).eval().decoder
        latents = torch.empty(1, config["latent_channels"], size, size)
    return module_costs(decoder, lambda: decoder(latents))[""]


def text_encoder_cost(config: Mapping[str, Any]) -> Cost:
    """Cost of the CLIP text encoder on one caption, which is always padded to all its tokens."""
    text_config = CLIPTextConfig(**config)
    with torch.device("meta"):
        encoder = CLIPTextModel(text_config).eval()
        tokens = torch.zeros(1, text_config.max_position_embeddings, dtype=torch.long)
    return module_costs(encoder, lambda: encoder(input_ids=tokens))[""]


def text_encoder_macs(config: Mapping[str, Any]) -> int:
    """MACs of `text_encoder_cost`."""
    return text_encoder_cost(config).macs


def step_flops(teacher_macs: int, student_macs: int) -> int:
    """Useful FLOPs of a distillation step for each image: 2 x (teacher + 3 x student), as a forward
    of either costs two FLOPs a MAC and the student's backward twice its forward.

    Model FLOPs utilisation (MFU) is counted in these. Not in it: the second forward of gradient
    checkpointing, VAE and text encoder (their results can be cached), losses, optimiser and EMA.
    """
    return 2 * (teacher_macs + 3 * student_macs)
