"""What a U-Net costs with some of its units gone: MACs as a differentiable function of its gates.

The MACs of a residual block's inside, of an attention and of a feed-forward are linear in the
units that stay; those of a module that can go as a whole are multiplied by its depth gate. So the
function is exact for hard gates: it equals what hooks count of the cut network.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from bksdm.models.cost import module_costs
from bksdm.surgery.sites import Sites, WidthSite

Counting = Literal["true", "published"]
COUNTINGS: Final = ("true", "published")

_INSIDE: Final = ("conv1", "time_emb_proj", "norm2", "conv2")  # of a residual block: prunable


@dataclass(frozen=True)
class Budget:
    """Costs of the parts of a U-Net at one size, batch 1.

    Attributes:
        sites: of the U-Net.
        total: MACs of the whole, with all gates open.
        unit: (units,), float64, MACs of each width gate.
        depth: (number of depth sites,), float64, MACs that go with a module beyond its units'.
    """

    sites: Sites
    total: float
    unit: Tensor = field(repr=False)
    depth: Tensor = field(repr=False)

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        sites: Sites,
        size: int,
        *,
        tokens: int = 77,
        counting: Counting = "true",
    ) -> "Budget":
        """Of a U-Net on latents of `size` a side.

        Args:
            config: of the U-Net.
            sites: its sites.
            size: of the latents.
            tokens: text states that it attends to.
            counting: "true" is what the arithmetic needs; "published" is how APTP's tables count,
                whatever `tokens` is (see `published_macs`).
        """
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(dict(config)).eval()
        macs = (
            published_macs(unet, size)
            if counting == "published"
            else {
                name: cost.macs
                for name, cost in module_costs(unet, _asking(unet, size, tokens)).items()
            }
        )
        by_site = {site.name: _inside(site, macs) for site in sites.width}
        unit = [cost for s in sites.width for cost in [by_site[s.name] / s.units] * s.units]
        depth = [
            macs[above.name] - sum(by_site[s.name] for s in sites.width if s.depth == above.name)
            for above in sites.depth
        ]
        return cls(sites, float(macs[""]), *(torch.tensor(x).double() for x in (unit, depth)))

    @property
    def prunable(self) -> float:
        """MACs that gates can take away, were all of them closed."""
        return float(self.unit.sum() + self.depth.sum())

    def macs(self, gates: Tensor) -> Tensor:
        """MACs (B,), float64, with these gates (B, D)."""
        gates = gates.double()
        one = gates.new_ones(len(gates), 1)
        above = torch.cat([gates, one], 1)[:, self.sites.depth_of_units.to(gates.device)]
        units = gates[:, : self.sites.units] * above @ self.unit.to(gates.device)
        modules = gates[:, self.sites.units :] @ self.depth.to(gates.device)
        return self.total - self.prunable + units + modules

    def ratio(self, gates: Tensor) -> Tensor:
        """Share (B,) of the prunable MACs that these gates (B, D) keep: r of the paper."""
        return 1 - (self.total - self.macs(gates)) / self.prunable

    def prunable_target(self, share: float) -> float:
        """The share of the prunable MACs that is left where the whole comes down to `share` of its
        MACs: p' = 1 - (1 - p) total / prunable.
        """
        return 1 - (1 - share) * self.total / self.prunable

    def least(self, *, depth: bool = True) -> float:
        """The fewest MACs that are possible: one unit a site, and with `depth` no module that can
        go.
        """
        gates = torch.zeros(1, self.sites.gates)
        for where in self.sites.slices.values():
            gates[0, where.start] = 1
        gates[0, self.sites.units :] = 0 if depth else 1
        return float(self.macs(gates))


def published_macs(unet: UNet2DConditionModel, size: int) -> dict[str, float]:
    """MACs of every module on latents of `size` a side as APTP's published counter gives them.

    Convolutions and linear layers with their biases, one for each element that goes through a norm,
    attention with its softmax. The counter sees a single text token, and charges cross-attention as
    if it had as many keys as queries: a fourth of the printed 1,384.2 G of SD 2.1 at 768 pixels
    does not exist. These rules give 1,384.1 G.
    """
    macs: Counter[str] = Counter()
    with ExitStack() as hooks:
        for name, module in unet.named_modules():
            hook = _adding(name, macs)
            hooks.callback(module.register_forward_hook(hook).remove)
        with torch.no_grad():
            _asking(unet, size, tokens=1)()
    return {name: float(macs[name]) for name, _ in unet.named_modules()}


def _adding(name: str, macs: Counter[str]) -> Callable[..., None]:
    parts = name.split(".")
    holders = [".".join(parts[:depth]) for depth in range(len(parts) + 1)]

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        del inputs
        if isinstance(module, nn.Linear | nn.Conv2d):
            weight, bias = module.weight, module.bias is not None
            more = output.numel() * (weight[0].numel() + bias)
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            more = output.numel()
        elif isinstance(module, Attention):
            queries = output.shape[1]
            more = queries * queries * (2 * module.inner_dim + module.heads)
        else:
            return
        for holder in dict.fromkeys(holders):
            macs[holder] += more

    return add


def _asking(unet: UNet2DConditionModel, size: int, tokens: int) -> Callable[[], object]:
    width = unet.config.cross_attention_dim
    with torch.device("meta"):
        latents = torch.empty(1, unet.config.in_channels, size, size)
        text = torch.empty(1, tokens, width if isinstance(width, int) else width[0])
        timestep = torch.empty(1, dtype=torch.long)
    return lambda: unet(latents, timestep, text)


def _inside(site: WidthSite, macs: Mapping[str, float]) -> float:
    """MACs that are shared out among the units of a site."""
    if site.kind == "resnet":
        return sum(macs[f"{site.name}.{layer}"] for layer in _INSIDE)
    return macs[site.name]
