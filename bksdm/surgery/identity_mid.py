"""A mid block that does nothing, for tools that cannot load a U-Net without one.

ControlNet and several user interfaces expect `mid_block`. Knows diffusers' mid block. Knows nothing
of plans, training or files.
"""

from typing import Final

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from bksdm.errors import InputError

MID: Final = "UNetMidBlock2DCrossAttn"


def with_identity_mid(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy with a mid block whose residual branches end in zeros, so that x + 0 = x: the outputs
    are equal, bit for bit. Inside the branches are fresh weights (of a fixed seed), so that it can
    be trained.

    Raises:
        InputError: there is a mid block already, or one that scales what passes through.
    """
    if unet.config.mid_block_type is not None:
        raise InputError(
            f"identity_mid=true: the U-Net has a mid block ({unet.config.mid_block_type}); leave it"
            " out"
        )
    if unet.config.mid_block_scale_factor != 1:
        raise InputError(
            f"identity_mid=true: mid_block_scale_factor={unet.config.mid_block_scale_factor} would"
            " scale what passes through; expected 1"
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result: UNet2DConditionModel = UNet2DConditionModel.from_config(
            dict(unet.config) | {"mid_block_type": MID}
        )
    result.to(device=unet.device, dtype=unet.dtype)
    missing, unexpected = result.load_state_dict(unet.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("mid_block.") for name in missing)
    ends: list[nn.Module] = [each.conv2 for each in result.mid_block.resnets]
    ends += [each.proj_out for each in result.mid_block.attentions]
    for end in ends:
        for parameter in end.parameters():
            nn.init.zeros_(parameter)
    return result.train(unet.training)
