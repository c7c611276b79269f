"""Latency of U-Nets against a baseline: interleaved calls, median ratio. A single time here is
noise; a ratio is not.
"""

import statistics
import time
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class LatencyRatio:
    """Median of (time of the U-Net / time of the baseline) over interleaved pairs of calls, and
    their quartiles.
    """

    median: float
    low: float
    high: float


@torch.no_grad()
def latency_ratio(
    unet: UNet2DConditionModel,
    baseline: UNet2DConditionModel,
    *,
    tokens: int,
    batch: int = 2,
    pairs: int = 30,
) -> LatencyRatio:
    """Time one call each, alternately, at the baseline's own latent size; batch 2 is one image with
    guidance.
    """
    size = baseline.config.sample_size
    latents = torch.zeros(batch, baseline.config.in_channels, size, size, device=baseline.device)
    width = baseline.config.cross_attention_dim
    text = torch.zeros(batch, tokens, width, device=baseline.device)
    timestep = torch.tensor(500, device=baseline.device)

    def seconds(model: UNet2DConditionModel) -> float:
        begin = time.perf_counter()
        model(latents, timestep, text)
        if latents.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    for model in (unet, baseline) * 2:
        seconds(model)
    ratios = [seconds(unet) / seconds(baseline) for _ in range(pairs)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return LatencyRatio(median, low, high)
