"""The prunable units of a stock U-Net, in a fixed order: what APTP (arXiv 2406.12042) gates.

A width site is a layer of which units can go: channel groups between the two convolutions of a
residual block, heads of an attention, groups of a feed-forward's inner channels. A depth site is a
module that can go as a whole: the last residual block and the last transformer of each down and up
block. A vector of gates has one number a unit of the width sites, then one a depth site.

Knows diffusers' names of blocks and layers. Knows nothing of gates, plans or training.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from bksdm.errors import InputError

Kind = Literal["resnet", "heads", "feed_forward"]
FEED_FORWARD_UNITS: Final = 32  # as published


@dataclass(frozen=True)
class WidthSite:
    """A layer of which units can go.

    Attributes:
        name: of the module: a residual block, an attention, or a feed-forward.
        kind: which of them.
        units: that can go; at least one stays.
        size: channels of a unit.
        depth: name of the depth site that the module lies in, if it does.
    """

    name: str
    kind: Kind
    units: int
    size: int
    depth: str | None


@dataclass(frozen=True)
class DepthSite:
    """A module that can go as a whole; its input then goes on in its place.

    Attributes:
        name: of the module.
        kind: "resnet" or "transformer".
        channels: of what goes on. A residual block of an up block is given the skip's channels
            behind them, which go with it.
    """

    name: str
    kind: Literal["resnet", "transformer"]
    channels: int


@dataclass(frozen=True)
class Sites:
    """All sites of a U-Net.

    Attributes:
        width: in the order of the forward; within a block all residual blocks first, then each
            transformer's attn1, attn2 and ff.
        depth: in the order of the forward; within a block the residual block first.
        keeping: positions in `depth`, the one that stays longest first: the outermost up block,
            then the outermost down block, and so on inwards (the published order).
    """

    width: tuple[WidthSite, ...]
    depth: tuple[DepthSite, ...]
    keeping: tuple[int, ...]

    @property
    def gates(self) -> int:
        """Length D of a vector of gates."""
        return self.units + len(self.depth)

    @cached_property
    def units(self) -> int:
        """Number of width gates, which come first."""
        return sum(site.units for site in self.width)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where in a vector the gates of each width site are, by its name."""
        found, start = {}, 0
        for site in self.width:
            found[site.name] = slice(start, start + site.units)
            start += site.units
        return found

    @cached_property
    def depth_positions(self) -> dict[str, int]:
        """Where in a vector the gate of each depth site is, by its name."""
        return {site.name: self.units + i for i, site in enumerate(self.depth)}

    @cached_property
    def segments(self) -> Tensor:
        """(units,), int64: of each width gate the number of its site."""
        counts = torch.tensor([site.units for site in self.width])
        return torch.repeat_interleave(torch.arange(len(self.width)), counts)

    @cached_property
    def depth_of_units(self) -> Tensor:
        """(units,), int64: of each width gate the position in a vector of the depth gate above it;
        that of no gate (`gates`) where there is none.
        """
        above = [
            self.gates if site.depth is None else self.depth_positions[site.depth]
            for site in self.width
        ]
        return torch.tensor(above)[self.segments]


def prunable_sites(unet: UNet2DConditionModel) -> Sites:
    """The sites of a stock U-Net; of Stable Diffusion 2.1 1,606 units and 14 modules.

    Raises:
        InputError: it has blocks of another kind.
    """
    width: list[WidthSite] = []
    depth: list[DepthSite] = []
    stages: dict[tuple[int, int], list[int]] = {}
    for name, distance, block in _blocks(unet):
        droppable = [] if distance is None else list(_droppable(name, block))
        if distance is not None:
            # The outermost first, the up half before the down half; up blocks from their end.
            positions = list(range(len(depth), len(depth) + len(droppable)))
            up = name.startswith("up")
            stages[distance, not up] = positions[::-1] if up else positions
        depth += droppable
        inside = {site.name for site in droppable}
        width += _width_sites(name, block, inside)
    keeping = tuple(position for key in sorted(stages) for position in stages[key])
    return Sites(tuple(width), tuple(depth), keeping)


def _blocks(unet: UNet2DConditionModel) -> Iterator[tuple[str, int | None, nn.Module]]:
    """Name and module of each block, and how many blocks lie outside it; of the mid block None."""
    for i, block in enumerate(unet.down_blocks):
        yield f"down_blocks.{i}", i, block
    if unet.mid_block is not None:
        yield "mid_block", None, unet.mid_block
    for i, block in enumerate(unet.up_blocks):
        yield f"up_blocks.{i}", len(unet.up_blocks) - 1 - i, block


def _droppable(name: str, block: nn.Module) -> Iterator[DepthSite]:
    """The last residual block, where it leaves the channels as they are, and the last
    transformer.
    """
    resnets, attentions = _layers(name, block)
    last = resnets[-1]
    if len(resnets) > 1:  # the first one changes the channels
        yield DepthSite(f"{name}.resnets.{len(resnets) - 1}", "resnet", last.out_channels)
    if attentions:
        channels = attentions[-1].in_channels
        yield DepthSite(f"{name}.attentions.{len(attentions) - 1}", "transformer", channels)


def _width_sites(name: str, block: nn.Module, droppable: set[str]) -> Iterator[WidthSite]:
    resnets, attentions = _layers(name, block)
    for i, resnet in enumerate(resnets):
        place = f"{name}.resnets.{i}"
        groups = resnet.norm2.num_groups
        above = place if place in droppable else None
        yield WidthSite(place, "resnet", groups, resnet.out_channels // groups, above)
    for i, transformer in enumerate(attentions):
        place = f"{name}.attentions.{i}"
        above = place if place in droppable else None
        for j, layer in enumerate(transformer.transformer_blocks):
            yield from _transformer_sites(f"{place}.transformer_blocks.{j}", layer, above)


def _transformer_sites(
    name: str, layer: BasicTransformerBlock, above: str | None
) -> Iterator[WidthSite]:
    for kind in ("attn1", "attn2"):
        attention = getattr(layer, kind, None)
        if attention is None:
            continue
        plain = isinstance(attention, Attention) and attention.added_kv_proj_dim is None
        if not plain or getattr(attention, "norm_q", None) is not None:
            raise InputError(f"{name}.{kind}: expected a plain attention, as Stable Diffusion has")
        size = attention.inner_dim // attention.heads
        yield WidthSite(f"{name}.{kind}", "heads", attention.heads, size, above)
    inner = layer.ff.net[2].in_features
    units = math.gcd(inner, FEED_FORWARD_UNITS)
    yield WidthSite(f"{name}.ff", "feed_forward", units, inner // units, above)


def _layers(name: str, block: nn.Module) -> tuple[list[ResnetBlock2D], list[Transformer2DModel]]:
    """The residual blocks and transformers of a block.

    Raises:
        InputError: they are of another kind.
    """
    resnets: Sequence[nn.Module] = list(getattr(block, "resnets", []))
    attentions: Sequence[nn.Module] = list(getattr(block, "attentions", None) or [])
    for i, resnet in enumerate(resnets):
        usual = isinstance(resnet, ResnetBlock2D) and resnet.time_embedding_norm == "default"
        if not usual or resnet.up or resnet.down or resnet.time_emb_proj is None:
            raise InputError(
                f"{name}.resnets.{i}: expected a residual block as Stable Diffusion's, with"
                " resnet_time_scale_shift='default'"
            )
    for i, attention in enumerate(attentions):
        if not isinstance(attention, Transformer2DModel):
            raise InputError(
                f"{name}.attentions.{i} is a {type(attention).__name__}; expected a"
                " Transformer2DModel, as Stable Diffusion has"
            )
    return list(resnets), list(attentions)
