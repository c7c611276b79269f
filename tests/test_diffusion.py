import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from bksdm.diffusion import Diffusion, sample_randomness
from bksdm.errors import InputError

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noising_and_targets_agree_with_diffusers(kind: str) -> None:
    scheduler = DDPMScheduler(**CONFIG, prediction_type=kind)
    diffusion = Diffusion.from_scheduler_config(dict(scheduler.config))
    latents, noise = torch.randn(4, 4, 2, 2), torch.randn(4, 4, 2, 2)
    timesteps = torch.tensor([0, 10, 500, 999])
    torch.testing.assert_close(
        diffusion.noised(latents, noise, timesteps), scheduler.add_noise(latents, noise, timesteps)
    )
    expected = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(diffusion.target(latents, noise, timesteps), expected)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_weights_agree_with_diffusers_recipe(kind: str) -> None:
    scheduler = DDPMScheduler(**CONFIG, prediction_type=kind)
    timesteps = torch.tensor([1, 100, 400, 999])
    snr = compute_snr(scheduler, timesteps)
    expected = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0] / (
        snr if kind == "epsilon" else snr + 1
    )
    weights = Diffusion.from_scheduler_config(dict(scheduler.config)).min_snr_weights(
        timesteps, gamma=5.0
    )
    torch.testing.assert_close(weights, expected)


def test_without_gamma_all_weights_are_one() -> None:
    diffusion = Diffusion.from_scheduler_config(CONFIG)
    assert torch.equal(diffusion.min_snr_weights(torch.tensor([0, 999]), gamma=None), torch.ones(2))


def test_unknown_prediction_types_are_refused() -> None:
    with pytest.raises(InputError, match="'sample'"):
        Diffusion.from_scheduler_config({"prediction_type": "sample"})


def test_a_sample_has_the_same_randomness_in_every_batch() -> None:
    seeds = torch.tensor([11, 22, 33])
    whole = sample_randomness(seeds, (4, 2, 2), steps=1000)
    alone = sample_randomness(seeds[1:2], (4, 2, 2), steps=1000)
    for many, one in zip(whole, alone, strict=True):
        assert torch.equal(many[1:2], one)
    assert not torch.equal(whole[1], whole[2])  # diffusion noise and VAE noise are two draws
