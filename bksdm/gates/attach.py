"""Gates on a stock U-Net by hooks, which come off when the block ends. No fork, no subclass.

There are two positions. "conv2", ours, gates what reads the units: the input of a residual block's
second convolution, of an attention's output projection, of a feed-forward's second linear layer. A
closed gate there equals a cut unit. "norm2" is where the published code gates: before a residual
block's second norm, on queries, keys and values, and on both halves of the feed-forward's
projection. A closed group then leaves its norm's bias behind, which the cut network does not have,
and half-open queries and keys flatten the attention with the square of the gate.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from bksdm.surgery.sites import Sites, WidthSite

Position = Literal["conv2", "norm2"]
POSITIONS: Final = ("conv2", "norm2")

_READERS: Final = {"resnet": ("conv2",), "heads": ("to_out.0",), "feed_forward": ("net.2",)}
_MAKERS: Final = {"heads": ("to_q", "to_k", "to_v"), "feed_forward": ("net.0.proj",)}


@contextmanager
def gated(
    unet: UNet2DConditionModel, sites: Sites, values: Tensor, *, position: Position = "conv2"
) -> Iterator[None]:
    """Inside the block the U-Net answers with these gates.

    Args:
        unet: with these sites.
        sites: of the U-Net.
        values: (B, D) in [0, 1], each sample's own, or (1, D). A batch of a multiple of B samples
            repeats them, as classifier-free guidance doubles its prompts. With ones the answer is
            the original's, bit for bit.
        position: see the module. Of hard gates, 0 or 1, only "conv2" answers as the cut network.

    The gates must still be there in the backward pass of a gradient-checkpointed network, which
    computes its forward again: do not checkpoint one whose gates have come off by then.

    Raises:
        ValueError: `values` is of another width.
    """
    if values.ndim != 2 or values.shape[1] != sites.gates:
        raise ValueError(f"gates {tuple(values.shape)}; expected (batch, {sites.gates})")
    channels = values[:, _unit_of_channel(sites).to(values.device)]
    with ExitStack() as hooks:
        start = 0
        for site in sites.width:
            end = start + site.units * site.size
            for handle in _width_hooks(unet, site, channels[:, start:end], position):
                hooks.callback(handle.remove)
            start = end
        for depth in sites.depth:
            gate = values[:, sites.depth_positions[depth.name]]
            hook = _mixing(gate, depth.channels)
            handle = unet.get_submodule(depth.name).register_forward_hook(hook)
            hooks.callback(handle.remove)
        yield


def _unit_of_channel(sites: Sites) -> Tensor:
    """Of each channel of all width sites the position of its gate."""
    sizes = torch.tensor([site.size for site in sites.width])[sites.segments]
    return torch.repeat_interleave(torch.arange(sites.units), sizes)


def _width_hooks(
    unet: UNet2DConditionModel, site: WidthSite, channels: Tensor, position: Position
) -> Iterator[Any]:
    layer = unet.get_submodule(site.name)
    if position == "norm2" and site.kind != "resnet":
        for name in _MAKERS[site.kind]:
            maker: Any = layer.get_submodule(name)
            wide = channels.repeat(1, maker.out_features // channels.shape[1])  # GEGLU's halves
            yield maker.register_forward_hook(_scaling_output(wide))
        return
    readers = ("norm2",) if position == "norm2" else _READERS[site.kind]
    for name in readers:
        yield layer.get_submodule(name).register_forward_pre_hook(_scaling_input(channels))


def _scaling_input(channels: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        return (_scaled(inputs[0], channels), *inputs[1:])

    return hook


def _scaling_output(channels: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del module, inputs
        return _scaled(output, channels)

    return hook


def _scaled(hidden: Tensor, channels: Tensor) -> Tensor:
    """Channels are the second dimension of pictures (B, C, h, w), the last of tokens (B, n, C)."""
    gate = _repeated(channels, hidden)
    return hidden * (gate[:, :, None, None] if hidden.ndim == 4 else gate[:, None, :])


def _mixing(gate: Tensor, channels: int) -> Any:
    """(1 - u) x + u f(x); of x the channels that go on without f."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        del module
        answer = output[0] if isinstance(output, tuple) else output
        # lerp is exact at both ends.
        mixed = torch.lerp(
            inputs[0][:, :channels].to(answer.dtype),
            answer,
            _repeated(gate, answer)[:, None, None, None],
        )
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    return hook


def _repeated(gate: Tensor, like: Tensor) -> Tensor:
    """The gates (B, ...) for a batch of a multiple of B, in its precision."""
    if len(gate) not in (1, len(like)):
        gate = gate.repeat(len(like) // len(gate), *[1] * (gate.ndim - 1))
    return gate.to(like.dtype)
