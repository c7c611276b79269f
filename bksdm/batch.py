"""The data types that cross layers. Knows nothing of how they are made or used."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextImageBatch:
    """Pictures and captions of one batch, ready for the encoders.

    Attributes:
        pixels: (B, 3, H, W), float in [-1, 1].
        tokens: (B, T), token ids; those of the empty caption where the caption was dropped.
        seeds: (B,), int64; everything random about a sample comes from its seed, which is a
            function of the run's seed and the sample's global position.
    """

    pixels: Tensor
    tokens: Tensor
    seeds: Tensor

    def __len__(self) -> int:
        return len(self.seeds)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "TextImageBatch":
        """Pixels and tokens moved to `device`; seeds are read on the CPU and stay there."""
        pixels, tokens = (
            part.to(device, non_blocking=non_blocking) for part in (self.pixels, self.tokens)
        )
        return replace(self, pixels=pixels, tokens=tokens)

    def pin_memory(self) -> "TextImageBatch":
        """Called by the DataLoader before a copy to the GPU."""
        return replace(self, pixels=self.pixels.pin_memory(), tokens=self.tokens.pin_memory())


@dataclass(frozen=True)
class NoisyBatch:
    """What the U-Nets see, and what they should answer.

    Attributes:
        latents: (B, C, h, w), noised to `timesteps`.
        timesteps: (B,), int64 in [0, training steps).
        text: (B, T, D), text encoder states.
        target: (B, C, h, w), epsilon or v, as the teacher predicts.
        weights: (B,), weight of each sample's task loss; ones unless SNR weighting is on.
    """

    latents: Tensor
    timesteps: Tensor
    text: Tensor
    target: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Prediction:
    """A U-Net's answer: `sample` (B, C, h, w), and the tapped `features` in the order of the
    feature pairs.
    """

    sample: Tensor
    features: tuple[Tensor, ...]
