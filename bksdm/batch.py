"""The data types that cross layers. Knows nothing of how they are made or used."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class Fault(NamedTuple):
    """A bad sample, for which another one stands in."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TextImageBatch:
    """Pictures and captions of one batch, as pixels and tokens for the encoders, or as what the
    encoders have made of them before.

    Attributes:
        tokens: (B, T), token ids; those of the empty caption where the caption was dropped.
        seeds: (B,), int64; everything random about a sample comes from its seed, which is a
            function of the run's seed and the sample's global position.
        pixels: (B, 3, H, W), float in [-1, 1]; None if there are moments.
        moments: (B, 2 C, h, w), mean and log variance of the VAE's latents, float16 as they are
            cached; None if there are pixels.
        text: (B, T, D), text states, float16 as well; None if the tokens are still to be encoded.
        captions: (B,), what the shards say, also where the caption was dropped: an expert is chosen
            by the prompt, and answers guidance's empty one as well.
        faults: samples that should have been in the batch and could not be used.
    """

    tokens: Tensor
    seeds: Tensor
    pixels: Tensor | None = None
    moments: Tensor | None = None
    text: Tensor | None = None
    captions: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if (self.pixels is None) == (self.moments is None):
            raise ValueError("a batch has either pixels or moments")

    def __len__(self) -> int:
        return len(self.seeds)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "TextImageBatch":
        """All tensors moved to `device`, but for the seeds, which are read on the CPU."""
        return self._with(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "TextImageBatch":
        """Called by the DataLoader before a copy to the GPU."""
        return self._with(lambda part: part.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> "TextImageBatch":
        def changed(part: Tensor | None) -> Tensor | None:
            return None if part is None else change(part)

        return replace(
            self,
            tokens=change(self.tokens),
            pixels=changed(self.pixels),
            moments=changed(self.moments),
            text=changed(self.text),
        )


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
