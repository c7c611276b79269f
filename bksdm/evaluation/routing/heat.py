"""What a code keeps of each layer, in the order in which the U-Net calls them."""

from bksdm.surgery.sites import Sites, WidthSite
from bksdm.surgery.width import WidthPlan

_LAYERS = ("resnets", "attentions")


def in_forward_order(sites: Sites) -> list[WidthSite]:
    """The width sites as the forward meets them: residual block, then its transformer, and so on
    through each block.
    """
    blocks: list[str] = []
    keys = {}
    for position, site in enumerate(sites.width):
        block, layer, number = _place(site.name)
        if block not in blocks:
            blocks.append(block)
        keys[site.name] = (blocks.index(block), number, _LAYERS.index(layer), position)
    return sorted(sites.width, key=lambda site: keys[site.name])


def _place(name: str) -> tuple[str, str, int]:
    """Block, "resnets" or "attentions", and its number there."""
    parts = name.split(".")
    at = next(i for i, part in enumerate(parts) if part in _LAYERS)
    return ".".join(parts[:at]), parts[at], int(parts[at + 1])


def kept_shares(plan: WidthPlan, sites: Sites) -> tuple[float, ...]:
    """Share of the units of each width site that stay, 0 to 1; 0 inside a module that goes. In the
    order of `in_forward_order`.
    """
    return tuple(
        0.0 if site.depth in plan.dropped else len(kept) / site.units
        for site in in_forward_order(sites)
        for kept in [plan.kept.get(site.name, range(site.units))]
    )
