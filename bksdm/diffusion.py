"""Timesteps, noising, targets and SNR weights of a discrete-time diffusion model. Pure torch,
randomness as arguments.

Notation of DDPM (arXiv 2006.11239): x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon. v is that of
progressive distillation (arXiv 2202.00512, appendix D): v = sqrt(abar_t) epsilon - sqrt(1 - abar_t)
x_0.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from bksdm.errors import InputError

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Diffusion:
    """A noise schedule and what the networks predict on it.

    Attributes:
        alphas_cumprod: (steps,), abar_t.
        prediction_type: "epsilon" or "v_prediction".
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType

    @classmethod
    def from_scheduler_config(cls, config: dict[str, Any]) -> "Diffusion":
        """The training-time view of any diffusers scheduler's config.

        Raises:
            InputError: a prediction type other than epsilon and v_prediction.
        """
        kind = config.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise InputError(
                f"scheduler prediction_type is {kind!r}; expected 'epsilon' or 'v_prediction'"
            )
        return cls(DDPMScheduler.from_config(config).alphas_cumprod, kind)

    def to(self, device: torch.device) -> "Diffusion":
        """With the schedule on a device, where every step looks it up."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    @property
    def steps(self) -> int:
        """Number of training timesteps."""
        return len(self.alphas_cumprod)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t from clean latents (B, C, h, w), noise of the same shape, and timesteps (B,)."""
        signal, sigma = self._coefficients(timesteps, latents)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a perfect network answers at x_t: epsilon or v."""
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self._coefficients(timesteps, latents)
        return signal * noise - sigma * latents

    def min_snr_weights(self, timesteps: Tensor, *, gamma: float | None) -> Tensor:
        """Min-SNR-gamma weights (arXiv 2303.09556, section 3.4): min(SNR, gamma)/SNR, over SNR + 1
        for v; ones if None.
        """
        if gamma is None:
            return torch.ones(timesteps.shape, device=timesteps.device)
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = abar / (1 - abar)
        clipped = snr.clamp(max=gamma)
        return clipped / snr if self.prediction_type == "epsilon" else clipped / (snr + 1)

    def _coefficients(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod.to(like.device)[timesteps].to(like.dtype)[:, None, None, None]
        return abar.sqrt(), (1 - abar).sqrt()


def sample_randomness(
    seeds: Tensor, shape: tuple[int, ...], *, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps (B,), diffusion noise and VAE noise (B, *shape), each sample's from its own seed.

    Always drawn on the CPU, so that a sample has the same noise on every device, rank and batch
    size. torch's CPU generator takes 32 bits of a seed: of ten million samples two in a thousand
    share their noise with another one.
    """
    timesteps = torch.empty(len(seeds), dtype=torch.int64)
    noise, posterior = torch.empty(2, len(seeds), *shape)
    rng = torch.Generator()
    for row, seed in enumerate(seeds.tolist()):
        rng.manual_seed(seed)
        timesteps[row].random_(steps, generator=rng)
        noise[row].normal_(generator=rng)
        posterior[row].normal_(generator=rng)
    return timesteps, noise, posterior
