"""The embedded VAE: 64x64 pictures to 8x8x4 latents.

A VAE that downsamples by 8 does not learn to draw objects when it is trained directly (shared
prototype: every try failed). So it is grown: first one that downsamples by 4, on 32x32 pictures;
then one more outer block on each side, started as the identity, on 64x64 pictures.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from .fit import fit
from .pictures import backgrounds, pictures, scaled

KL_WEIGHT = 1e-7  # at 1e-5 half of the latent channels collapse to noise
FOREGROUND_WEIGHT = 5.0  # objects cover a tenth of a picture
BATCH = 16
INNER = (16, 32, 64)


def build(channels: tuple[int, ...]) -> AutoencoderKL:
    """An untrained AutoencoderKL with one stage a channel count."""
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=8 * 2 ** (len(channels) - 1),
    )


def grow(inner: AutoencoderKL) -> AutoencoderKL:
    """A VAE with one more outer stage whose start is `inner` between a 2x average pooling and a 2x
    nearest upsampling.
    """
    outer = build((INNER[0], *INNER))
    weights = outer.state_dict()
    for name, tensor in inner.state_dict().items():
        for old, new in [("encoder.down_blocks.2.", "encoder.down_blocks.3."),
                         ("encoder.down_blocks.1.", "encoder.down_blocks.2."),
                         ("encoder.down_blocks.0.", "encoder.down_blocks.1.")]:  # fmt: skip
            if name.startswith(old):
                name = name.replace(old, new)
                break
        weights[name] = tensor
    for name in weights:
        if (
            name.startswith(("encoder.down_blocks.0.resnets", "decoder.up_blocks.3.resnets"))
            and ".conv2." in name
        ):
            weights[name] = torch.zeros_like(weights[name])
    identity = torch.eye(INNER[0])[:, :, None, None]
    pool = torch.zeros(INNER[0], INNER[0], 3, 3)
    pool[:, :, :2, :2] = (
        identity / 4
    )  # diffusers pads right and below before the strided convolution
    weights["encoder.down_blocks.0.downsamplers.0.conv.weight"] = pool
    upsample = torch.zeros(INNER[0], INNER[0], 3, 3)
    upsample[:, :, 1:2, 1:2] = identity
    weights["decoder.up_blocks.2.upsamplers.0.conv.weight"] = upsample
    for name in ("encoder.down_blocks.0.downsamplers.0", "decoder.up_blocks.2.upsamplers.0"):
        weights[f"{name}.conv.bias"] = torch.zeros(INNER[0])
    outer.load_state_dict(weights)
    return outer


def train(work: Path, *, inner_steps: int, outer_steps: int, count: int = 20_000) -> AutoencoderKL:
    """Train, grow, train again, and set the scaling factor to one over the standard deviation of
    the latents.
    """
    scenes, pixels = pictures(count, seed=1)
    foreground = (pixels != backgrounds(scenes)).any(1, keepdim=True)
    torch.manual_seed(0)
    vae = build(INNER)
    small = F.avg_pool2d(pixels.float(), 2).round().to(torch.uint8)
    small_foreground = F.max_pool2d(foreground.float(), 2).bool()
    fit(
        vae,
        lambda rng: _loss(vae, small, small_foreground, rng),
        steps=inner_steps,
        lr=1.5e-3,
        state=work / "vae4.pt",
    )
    grown = grow(vae)
    fit(
        grown,
        lambda rng: _loss(grown, pixels, foreground, rng),
        steps=outer_steps,
        lr=1e-3,
        state=work / "vae8.pt",
    )
    with torch.no_grad():
        latents = grown.encode(scaled(pixels[:1024])).latent_dist.mode()
    grown.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    return grown.eval()


def _loss(vae: AutoencoderKL, pixels: Tensor, foreground: Tensor, rng: torch.Generator) -> Tensor:
    index = torch.randint(len(pixels), (BATCH,), generator=rng)
    images = scaled(pixels[index])
    posterior = vae.encode(images).latent_dist
    guess = vae.decode(posterior.sample(generator=rng)).sample
    weight = 1 + (FOREGROUND_WEIGHT - 1) * foreground[index].float()
    return (weight * (guess - images) ** 2).mean() + KL_WEIGHT * posterior.kl().mean()
