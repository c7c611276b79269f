"""Relaxed gates: numbers in (0, 1) that a network's logits become, and their hard form.

Widths are Gumbel-sigmoids, g = sigmoid((l + G + b) / T). Depths ("importance") go in a fixed order:
of a softmax over the n depth logits the gate at place j of the order has the sum of the first n - j
masses, so the module at place 0 stays whenever any does, and that at the last place is the first
to go. Pure functions; noise is an argument.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bksdm import expected
from bksdm.surgery.sites import Sites

EPSILON: Final = 1e-6  # of the inverse sigmoid, as published


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """How logits become gates.

    Attributes:
        temperature: T; the lower, the harder.
        offset: b; logits of 0 are open gates.
    """

    temperature: float = 0.4
    offset: float = 3.0

    def __post_init__(self) -> None:
        expected.number("method.relaxation.temperature", self.temperature, above=0)
        expected.number("method.relaxation.offset", self.offset)

    def margins(self, logits: Tensor, sites: Sites) -> Tensor:
        """(B, D) from logits (B, D): above 0 a gate is open, without noise."""
        widths = logits[:, : sites.units]
        depths = ordered_depths(logits[:, sites.units :], sites)
        depths = depths.clamp(min=EPSILON).log() - (1 - depths).clamp(min=EPSILON).log()
        return torch.cat([widths, depths], 1) + self.offset

    def relaxed(self, logits: Tensor, sites: Sites, *, noise: Tensor | None = None) -> Tensor:
        """Gates (B, D) in (0, 1).

        Args:
            logits: (B, D).
            sites: which numbers are widths and which are depths.
            noise: (B, D) of a Gumbel distribution; None for none, its mode.
        """
        margins = self.margins(logits, sites)
        return torch.sigmoid((margins if noise is None else margins + noise) / self.temperature)


def ordered_depths(logits: Tensor, sites: Sites) -> Tensor:
    """Softmax, cumulative sum, reversed: (B, n) in (0, 1], by depth site, never larger for a site
    that goes earlier.
    """
    if not logits.shape[1]:
        return logits
    places = torch.tensor(sites.keeping, device=logits.device)
    sums = logits.softmax(1).cumsum(1).flip(1)  # by place in the order
    return torch.empty_like(sums).index_copy(1, places, sums)


def hardened(gates: Tensor, sites: Sites) -> Tensor:
    """Gates (B, D) of 0 and 1 with the gradient of the soft ones (straight-through); of each width
    site the most open unit is open.
    """
    soft = gates.detach()
    open_ = soft > 0.5
    for where in sites.slices.values():
        rows = torch.arange(len(soft), device=soft.device)
        open_[rows, where.start + soft[:, where].argmax(1)] = True
    # In this order the forward value is exactly 0 or 1.
    return open_.to(gates.dtype) + (gates - soft)


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Gumbel(0, 1) noise, on the CPU."""
    uniform = torch.rand(shape, generator=generator).clamp(min=torch.finfo(torch.float32).tiny)
    return -(-uniform.log()).clamp(min=torch.finfo(torch.float32).tiny).log()


def gumbel_of(seeds: Tensor, width: int) -> Tensor:
    """Gumbel noise (B, width), each row from its own seed (B,), int64: a sample has the same noise
    in every batch and process. Another stream than that of the sample's timestep.
    """
    generator = torch.Generator()
    rows = []
    for seed in seeds.tolist():
        generator.manual_seed(seed ^ _STREAM)
        rows.append(gumbel((width,), generator))
    return torch.stack(rows)


_STREAM: Final = 0x67756D62656C  # "gumbel"
