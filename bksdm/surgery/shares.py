"""What a width plan keeps of each stage of a U-Net: shares of its units, as values and as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel

from bksdm.surgery.sites import Kind, Sites, WidthSite, prunable_sites
from bksdm.surgery.width import WidthPlan, check

_WORDS: Final[Mapping[Kind, str]] = {
    "resnet": "resnet groups",
    "heads": "heads",
    "feed_forward": "feed-forward units",
}


@dataclass(frozen=True)
class StageShare:
    """What stays of a stage.

    Attributes:
        name: of the block, such as "down_blocks.0".
        units: by kind of site (those that the stage has): (units that stay, units). Of a module
            that goes, none stay.
        dropped: of its modules that go, how many do.
        modules: its resnets and transformers.
    """

    name: str
    units: Mapping[Kind, tuple[int, int]]
    dropped: int
    modules: int


def sites_of_config(config: Mapping[str, Any]) -> Sites:
    """The prunable sites of a U-Net with this config, which is not built.

    Raises:
        InputError: it has blocks of another kind.
    """
    with torch.device("meta"):
        return prunable_sites(UNet2DConditionModel.from_config(dict(config)))


def kept_units(site: WidthSite, plan: WidthPlan) -> int:
    """How many units of a site stay."""
    if site.depth in plan.dropped:
        return 0
    return len(plan.kept[site.name]) if site.name in plan.kept else site.units


def stage_shares(config: Mapping[str, Any], plan: WidthPlan) -> list[StageShare]:
    """In the order of the forward, of a teacher with this config.

    Raises:
        InputError: the plan is not one for it.
    """
    sites = sites_of_config(config)
    check(plan, sites)
    stages = dict.fromkeys(stage_of(site) for site in sites.width)
    return [_share(stage, sites, plan) for stage in stages]


def module_shares(config: Mapping[str, Any], plan: WidthPlan) -> dict[str, float]:
    """By name of a resnet or transformer the share of its units that stay, in [0, 1].

    Raises:
        InputError: the plan is not one for a teacher with this config.
    """
    sites = sites_of_config(config)
    check(plan, sites)
    inside: dict[str, list[WidthSite]] = {}
    for site in sites.width:
        inside.setdefault(module_of(site), []).append(site)
    return {
        name: sum(kept_units(site, plan) for site in own) / sum(site.units for site in own)
        for name, own in inside.items()
    }


def module_of(site: WidthSite) -> str:
    """The resnet or transformer that a site lies in."""
    return ".".join(site.name.split(".")[: stage_of(site).count(".") + 3])


def stage_of(site: WidthSite) -> str:
    """The block that a site lies in."""
    first, second, *_ = site.name.split(".")
    return first if first == "mid_block" else f"{first}.{second}"


def _share(stage: str, sites: Sites, plan: WidthPlan) -> StageShare:
    own = [site for site in sites.width if stage_of(site) == stage]
    units = {
        kind: (
            sum(kept_units(site, plan) for site in own if site.kind == kind),
            sum(site.units for site in own if site.kind == kind),
        )
        for kind in dict.fromkeys(site.kind for site in own)
    }
    modules = {module_of(site) for site in own}
    return StageShare(stage, units, sum(name in modules for name in plan.dropped), len(modules))


def table_of(config: Mapping[str, Any], plan: WidthPlan) -> str:
    """One line a stage.

    Raises:
        InputError: the plan is not one for a teacher with this config.
    """
    lines = ["units that stay, a stage; a module that is dropped keeps none", ""]
    for share in stage_shares(config, plan):
        cells = [
            f"{_WORDS[kind]} {kept} of {all_} ({100 * kept / all_:.0f} %)"
            for kind, (kept, all_) in share.units.items()
        ]
        gone = f"; {share.dropped} of {share.modules} modules dropped" * bool(share.dropped)
        lines.append(
            f"{share.name.replace('_blocks.', ' ').replace('_block', ''):8}{', '.join(cells)}{gone}"
        )
    return "\n".join(lines)
