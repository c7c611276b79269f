"""What criteria that look at inputs are shown."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from bksdm.errors import InputError
from bksdm.evaluation.generate import generate
from bksdm.evaluation.prompts import ShapesPrompts
from bksdm.evaluation.pruning.calibration import (
    CalibrationSettings,
    Samples,
    samples_of,
    text_calls,
    unet_calls,
)
from bksdm.evaluation.pruning.version import prune_pipeline
from tests.evaluation.pruning.studies import (
    CALIBRATION,
    MAGNITUDE,
    SAMPLING,
    WANDA,
    configuration,
    quiet,
)

DRAWS = 4
SETTINGS = replace(CALIBRATION, draws=DRAWS, prompts=ShapesPrompts(count=24, held_out=0, seed=5000))


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return quiet()


@pytest.fixture(scope="module")
def samples(pipeline: StableDiffusionPipeline) -> Samples:
    return samples_of(pipeline, SETTINGS.read(), SETTINGS)


def states_of(pipeline: StableDiffusionPipeline, texts: tuple[str, ...]) -> Tensor:
    """As the pipeline itself encodes prompts."""
    with torch.no_grad():
        found: Tensor = pipeline.encode_prompt(list(texts), "cpu", 1, False)[0]
    return found


def test_every_second_text_is_empty_where_pictures_are_guided(samples: Samples) -> None:
    assert samples.texts.count("") == len(samples.texts) / 2
    for draw in range(DRAWS):  # in every part of the schedule
        assert samples.texts[draw::DRAWS].count("") == 12
    for picture in range(24):  # and of every picture
        assert samples.texts[picture * DRAWS : (picture + 1) * DRAWS].count("") == 2
    texts = [prompt.text for prompt in SETTINGS.read()]
    assert all(text in ("", texts[i // DRAWS]) for i, text in enumerate(samples.texts))


@pytest.mark.parametrize("draws", [1, 3])
def test_empty_texts_are_spread_over_pictures_and_timesteps_with_odd_draws_too(
    pipeline: StableDiffusionPipeline, draws: int
) -> None:
    settings = replace(CALIBRATION, draws=draws)
    texts = samples_of(pipeline, settings.read(), settings).texts
    for draw in range(draws):
        assert texts[draw::draws].count("") == len(texts) // draws // 2


def test_no_text_is_empty_where_pictures_are_not_guided(pipeline: StableDiffusionPipeline) -> None:
    settings = replace(CALIBRATION, sampling=replace(SAMPLING, guidance=1.0))
    assert "" not in samples_of(pipeline, settings.read(), settings).texts


def test_timesteps_spread_over_the_whole_schedule(samples: Samples) -> None:
    assert samples.steps == 1000
    quarters = samples.timesteps.reshape(24, DRAWS) // 250
    assert torch.equal(quarters, torch.arange(DRAWS).expand(24, DRAWS))
    within = (samples.timesteps % 250).float()
    assert within.mean() == pytest.approx(125, abs=4 * 250 / 12**0.5 / 96**0.5)
    assert len(samples.timesteps.unique()) > 70


def test_latents_are_the_models_pictures_with_noise_of_the_schedule(
    pipeline: StableDiffusionPipeline, samples: Samples
) -> None:
    made = list(generate(pipeline, SETTINGS.read(), SAMPLING))
    clean = torch.stack([each.latents for each in made]).repeat_interleave(DRAWS, 0)
    left = pipeline.scheduler.alphas_cumprod[samples.timesteps].reshape(-1, 1, 1, 1)
    noise = (samples.latents - left.sqrt() * clean) / (1 - left).sqrt()
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    rows = noise.flatten(1)
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.4  # each has its own


def test_the_same_prompts_give_the_same_samples(
    pipeline: StableDiffusionPipeline, samples: Samples
) -> None:
    again = samples_of(pipeline, SETTINGS.read(), SETTINGS)
    assert torch.equal(again.latents, samples.latents)
    assert torch.equal(again.timesteps, samples.timesteps)
    moved = replace(SETTINGS, prompts=ShapesPrompts(count=24, held_out=0, seed=6000))
    other = samples_of(pipeline, moved.read(), moved)
    assert not torch.equal(other.timesteps, samples.timesteps)


def test_the_text_encoder_sees_captions_as_the_pipeline_encodes_them(
    pipeline: StableDiffusionPipeline,
) -> None:
    prompts = SETTINGS.read()
    calls = list(text_calls(pipeline, prompts, batch_size=10))
    ids = torch.cat([call.call["input_ids"] for call in calls])
    assert [len(call.call["input_ids"]) for call in calls] == [10, 10, 4]
    with torch.no_grad():
        found = pipeline.text_encoder(input_ids=ids).last_hidden_state
    assert torch.equal(found, states_of(pipeline, tuple(prompt.text for prompt in prompts)))


def test_the_unet_sees_every_sample_once_with_its_text_and_its_progress(
    pipeline: StableDiffusionPipeline, samples: Samples
) -> None:
    calls = list(unet_calls(pipeline, samples, batch_size=40))
    joined = {name: torch.cat([call.call[name] for call in calls]) for name in calls[0].call}
    assert torch.equal(joined["sample"], samples.latents)
    assert torch.equal(joined["timestep"], samples.timesteps)
    torch.testing.assert_close(joined["encoder_hidden_states"], states_of(pipeline, samples.texts))
    progress = torch.cat([torch.as_tensor(call.progress) for call in calls])
    assert torch.equal(progress, 1 - samples.timesteps / 1000)


def test_samples_are_of_the_dense_model_though_the_text_encoder_is_pruned_first() -> None:
    pipeline, kept = quiet(), dict[int, Samples]()
    wanted = samples_of(quiet(), CALIBRATION.read(), CALIBRATION)
    dense = states_of(pipeline, wanted.texts)
    prune_pipeline(
        pipeline,
        configuration(WANDA, text_encoder=0.8, unet=0.5),
        calibration=lambda seed: CALIBRATION,
        samples=kept,
    )
    assert torch.equal(kept[0].latents, wanted.latents)
    assert kept[0].texts == wanted.texts
    # While the states that the U-Net is calibrated with are those of the pruned text encoder.
    call = next(iter(unet_calls(pipeline, kept[0], batch_size=64)))
    pruned = call.call["encoder_hidden_states"]
    assert torch.equal(pruned, states_of(pipeline, wanted.texts))
    assert not torch.allclose(pruned, dense, atol=1e-3)


def test_what_needs_no_inputs_asks_for_no_calibration() -> None:
    def refuse(seed: int) -> CalibrationSettings:
        raise AssertionError(seed)

    made = configuration(WANDA, text_encoder=0.5)
    with pytest.raises(AssertionError):
        prune_pipeline(quiet(), made, calibration=refuse)
    prune_pipeline(quiet(), configuration(MAGNITUDE, unet=0.5), calibration=refuse)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: replace(CALIBRATION, prompts=ShapesPrompts(count=7, held_out=0, seed=1)).read(),
            "calibration has 7 prompts; expected at least 8",
        ),
        (lambda: replace(CALIBRATION, draws=0), "calibration.draws=0"),
        (lambda: replace(CALIBRATION, batch_size=0), "calibration.batch_size=0"),
        (lambda: replace(CALIBRATION, prompts=3), "calibration.prompts=3"),
        (
            lambda: replace(CALIBRATION, sampling=replace(SAMPLING, dtype="float16")),
            "calibration.sampling.dtype=float16",
        ),
    ],
)
def test_calibration_that_says_nothing_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
