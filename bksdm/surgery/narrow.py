"""Cut a U-Net to a width plan: a real smaller network, with the weights that stay.

What is cut equals what is masked: group statistics, heads and inner channels are computed
independently of each other, so that a unit whose output is multiplied by zero can as well be gone.
Knows diffusers' layers. Knows nothing of gates, losses or training.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from bksdm.surgery.sites import DepthSite, Kind, Sites, WidthSite, prunable_sites
from bksdm.surgery.width import WidthPlan, check

Index = Tensor | tuple[slice, Tensor] | slice

# The one layer that reads the units of a site.
_READER: Final[Mapping[Kind, str]] = {
    "resnet": "conv2",
    "heads": "to_out.0",
    "feed_forward": "net.2",
}


class DroppedResnet(nn.Module):
    """Stands where a residual block was: the input goes on, without the skip behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, hidden: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C or more, h, w) to (B, C, h, w)."""
        del temb
        return hidden[:, : self.channels]


class DroppedTransformer(nn.Module):
    """Stands where a transformer was: the input goes on."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        """As stock blocks ask: a tuple of one."""
        del args, kwargs
        return (hidden_states,)


def narrow(teacher: UNet2DConditionModel, plan: WidthPlan) -> UNet2DConditionModel:
    """A new, smaller U-Net with the teacher's weights, to be trained. The teacher is left as it is.

    Raises:
        InputError: the plan is not one for this U-Net.
    """
    # Not a copy: that would be frozen as the teacher is, and have its hooks.
    with torch.device(teacher.device):
        student: UNet2DConditionModel = UNet2DConditionModel.from_config(teacher.config)
    student = student.to(teacher.dtype)
    student.load_state_dict(teacher.state_dict())
    cut_in_place(student, plan)
    return student


def empty_narrow(config: Mapping[str, Any], plan: WidthPlan) -> UNet2DConditionModel:
    """The same shape with fresh weights, on the default device, for a teacher with this config."""
    student: UNet2DConditionModel = UNet2DConditionModel.from_config(dict(config))
    cut_in_place(student, plan)
    return student


def cut_in_place(unet: UNet2DConditionModel, plan: WidthPlan) -> None:
    """Cut a whole U-Net, of which tensors may be shared with nobody.

    Raises:
        InputError: the plan is not one for this U-Net.
    """
    sites = prunable_sites(unet)
    check(plan, sites)
    for name, index in cut_tensors(unet, sites, plan).items():
        parent, _, kind = name.rpartition(".")
        layer = unet.get_submodule(parent)
        whole = layer.get_parameter(kind)
        part = nn.Parameter(whole.detach()[index].clone(), requires_grad=whole.requires_grad)
        setattr(layer, kind, part)
    for site in sites.width:
        if site.name in plan.kept and site.depth not in plan.dropped:
            _resize(unet.get_submodule(site.name), len(plan.kept[site.name]))
    for depth in sites.depth:
        if depth.name in plan.dropped:
            unet.set_submodule(depth.name, _stand_in(depth))


def masked(teacher: UNet2DConditionModel, plan: WidthPlan) -> UNet2DConditionModel:
    """A full-size U-Net that answers as the narrow one: what a cut unit would add is zero. Stock
    diffusers reads it anywhere; it is no smaller and no faster.

    Raises:
        InputError: the plan is not one for this U-Net.
    """
    unet = copy.deepcopy(teacher)
    sites = prunable_sites(unet)
    check(plan, sites)
    with torch.no_grad():
        for site in sites.width:
            if site.depth not in plan.dropped and site.name in plan.kept:
                gone = torch.ones(site.units * site.size, dtype=torch.bool)
                gone[channels_of(site, plan.kept[site.name])] = False
                reader = unet.get_submodule(f"{site.name}.{_READER[site.kind]}")
                reader.get_parameter("weight")[:, gone] = 0
        for depth in sites.depth:
            if depth.name in plan.dropped:
                _silence(unet.get_submodule(depth.name), depth)
    return unet


def channels_of(site: WidthSite, units: Sequence[int]) -> Tensor:
    """Channels of these units."""
    return (torch.tensor(units)[:, None] * site.size + torch.arange(site.size)).flatten()


def fill_masked(unet: UNet2DConditionModel, expert: UNet2DConditionModel, plan: WidthPlan) -> None:
    """Write a narrow U-Net's weights into a full-size one of its teacher, in place, which then
    answers as it does.
    """
    sites = prunable_sites(unet)
    check(plan, sites)
    places, whole = cut_tensors(unet, sites, plan), unet.state_dict()
    for name, tensor in expert.state_dict().items():
        whole[name][places.get(name, slice(None))] = tensor
    unet.load_state_dict(masked(unet, plan).state_dict())


def cut_tensors(unet: UNet2DConditionModel, sites: Sites, plan: WidthPlan) -> dict[str, Index]:
    """Names of the tensors of which something is cut, with the index of what stays of them."""
    found: dict[str, Index] = {}
    for site in sites.width:
        if site.name not in plan.kept or site.depth in plan.dropped:
            continue
        channels = channels_of(site, plan.kept[site.name])
        for layer, rows in _rows(unet.get_submodule(site.name), channels).items():
            of = f"{site.name}.{layer}"
            found |= {f"{of}.{name}": rows for name, _ in unet.get_submodule(of).named_parameters()}
        found[f"{site.name}.{_READER[site.kind]}.weight"] = (slice(None), channels)
    return found


def _rows(layer: nn.Module, channels: Tensor) -> dict[str, Tensor]:
    """The layers that make a site's units, with the rows of these channels."""
    if isinstance(layer, ResnetBlock2D):
        return dict.fromkeys(("conv1", "time_emb_proj", "norm2"), channels)
    if isinstance(layer, Attention):
        return dict.fromkeys(("to_q", "to_k", "to_v"), channels)
    assert isinstance(layer, FeedForward)
    projection, inner = layer.net[0].proj, layer.net[2].in_features
    gated = projection.out_features == 2 * inner  # GEGLU: the value, then its gate
    return {"net.0.proj": torch.cat([channels, channels + inner]) if gated else channels}


def _resize(layer: nn.Module, units: int) -> None:
    """Let the modules of a site know how wide they are now."""
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            part.out_features, part.in_features = part.weight.shape
        elif isinstance(part, nn.Conv2d):
            part.out_channels, part.in_channels = part.weight.shape[:2]
    if isinstance(layer, ResnetBlock2D):
        layer.norm2.num_groups, layer.norm2.num_channels = units, len(layer.norm2.weight)
    elif isinstance(layer, Attention):
        layer.heads = layer.sliceable_head_dim = units
        layer.inner_dim = layer.inner_kv_dim = len(layer.to_q.weight)


def _stand_in(site: DepthSite) -> nn.Module:
    return DroppedResnet(site.channels) if site.kind == "resnet" else DroppedTransformer()


def _silence(module: Any, site: DepthSite) -> None:
    """What the module adds to its input becomes zero."""
    if site.kind == "transformer":
        module.proj_out.weight.zero_()
        module.proj_out.bias.zero_()
        return
    module.conv2.weight.zero_()
    module.conv2.bias.zero_()
    if module.conv_shortcut is not None:  # of an up block: the skip's channels go
        module.conv_shortcut.weight.zero_()
        module.conv_shortcut.bias.zero_()
        module.conv_shortcut.weight[:, : site.channels, 0, 0] = torch.eye(site.channels)
