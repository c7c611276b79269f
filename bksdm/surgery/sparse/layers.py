"""Which layers of a network can be pruned, and their weights and inputs as matrices.

Knows torch's linear and convolutional layers, and how diffusers and transformers name blocks. Knows
nothing of criteria.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bksdm import expected
from bksdm.errors import InputError

LINEAR: Final = "linear"  # as the published code
LINEAR_CONV: Final = "linear+conv"  # as the paper's abstract reads
_KINDS: Final = {LINEAR: (nn.Linear,), LINEAR_CONV: (nn.Linear, nn.Conv2d)}

Layer = nn.Linear | nn.Conv2d

# Where inputs are counted anew after what comes before is pruned, and what OWL weighs against each
# other: a layer of the text encoder; a stage, or a resnet or transformer, of the U-Net.
_STAGE: Final = re.compile(r"(?:\w+\.)*?layers\.\d+|(?:down|up)_blocks\.\d+|\w+")
_BLOCK: Final = re.compile(
    r"(?:\w+\.)*?layers\.\d+|(?:down|up)_blocks\.\d+\.\w+\.\d+|mid_block\.\w+\.\d+|\w+"
)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which weights may be zeroed. Biases, norms and embeddings never are.

    Attributes:
        layers: "linear", or "linear+conv".
        include: patterns of which one must fit a layer's name; none: all fit. A pattern is one or
            more dotted parts of a name, with * and ? as in a shell: "attn2", "down_blocks.0",
            "*_proj".
        exclude: patterns of which none may fit.
    """

    layers: str = LINEAR
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected.one_of("layers", self.layers, tuple(_KINDS))
        for name in ("include", "exclude"):
            value = getattr(self, name)
            if value is None or isinstance(value, str):
                value = () if value is None else (value,)
            object.__setattr__(self, name, tuple(map(str, value)))

    @property
    def words(self) -> str:
        """For tables."""
        parts = [self.layers]
        parts += [f"only {', '.join(self.include)}"] * bool(self.include)
        parts += [f"without {', '.join(self.exclude)}"] * bool(self.exclude)
        return ", ".join(parts)


def prunable(networks: Sequence[nn.Module], selection: Selection) -> list[dict[str, Layer]]:
    """The selected layers of each network by name, in its own order.

    Raises:
        InputError: a pattern fits no layer of any of them, or nothing is left.
    """
    kinds = _KINDS[selection.layers]
    every = [
        {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
        for network in networks
    ]
    names = [name for layers in every for name in layers]
    for setting in ("include", "exclude"):
        for pattern in getattr(selection, setting):
            if not any(_fits(name, pattern) for name in names):
                raise InputError(
                    f"{setting}={pattern}: no {selection.layers} layer has such a name; the nearest"
                    f" is {_nearest(pattern, names)}"
                )
    found = [
        {name: layer for name, layer in layers.items() if _chosen(name, selection)}
        for layers in every
    ]
    if not any(found):
        raise InputError(
            f"include={list(selection.include)} exclude={list(selection.exclude)}: no layer is left"
            " to prune; leave one of them out"
        )
    return found


def _chosen(name: str, selection: Selection) -> bool:
    wanted = not selection.include or any(_fits(name, each) for each in selection.include)
    return wanted and not any(_fits(name, each) for each in selection.exclude)


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")


def _nearest(pattern: str, names: Sequence[str]) -> str:
    # A whole name, or a run of its parts: patterns are such.
    parts = {
        ".".join(split[start:stop])
        for split in (name.split(".") for name in names)
        for start in range(len(split))
        for stop in range(start + 1, len(split) + 1)
    }
    word = pattern.strip("*?.")
    close = get_close_matches(word, sorted(parts), n=1, cutoff=0) or sorted(parts)
    return close[0]


def stage_of(name: str) -> str:
    """The part of a network that is pruned before the inputs of the next are counted."""
    return _matched(_STAGE, name)


def block_of(name: str) -> str:
    """The block that OWL gives a sparsity of its own."""
    return _matched(_BLOCK, name)


def _matched(pattern: re.Pattern[str], name: str) -> str:
    found = pattern.match(name)
    assert found is not None, name
    return found[0]


def matrix(weight: Tensor) -> Tensor:
    """A weight as (outputs, columns). Of a convolution's columns the input channels run fastest, so
    that groups of N:M sparsity lie along channels, as sparse tensor cores want them.
    """
    if weight.ndim == 2:
        return weight
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def from_matrix(values: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `matrix`."""
    if len(shape) == 2:
        return values
    out, channels, height, width = shape
    return values.view(out, height, width, channels).permute(0, 3, 1, 2).contiguous()


def input_rows(layer: Layer, inputs: Tensor) -> Tensor:
    """What a layer's matrix is multiplied with, (B, positions, columns), for inputs (B, ..., I) of
    a linear layer, or (B, C, H, W) of a convolution.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(len(inputs), -1, inputs.shape[-1])
    assert layer.groups == 1, "grouped convolutions have no such matrix"
    assert not isinstance(layer.padding, str)
    patches = F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    kernel = patches.shape[1] // layer.in_channels
    grouped = patches.view(len(inputs), layer.in_channels, kernel, -1)
    return grouped.permute(0, 3, 2, 1).reshape(len(inputs), grouped.shape[-1], -1)
