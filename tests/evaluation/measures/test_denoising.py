import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from bksdm.diffusion import sample_randomness
from bksdm.errors import InputError
from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measure import Measure, Pictures, Subject
from bksdm.evaluation.measures.denoising import (
    BINS,
    DenoisingLoss,
    ShapesDenoisingLoss,
    by_timestep,
    denoising_errors,
)
from bksdm.evaluation.measures.similarity import LatentMse
from bksdm.evaluation.prompts import ShapesPrompts, from_texts
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.score import Better, Score
from bksdm.export.pipeline import load_pipeline

TEXTS = ["red", "a blue square", "a dog", "two cats", "nothing"]
SEEDS = torch.tensor([3, 1, 4, 1, 5])


@pytest.fixture(scope="module")
def pipeline(teacher_folder: Path) -> StableDiffusionPipeline:
    return load_pipeline(teacher_folder)


def latents(count: int = len(TEXTS)) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def one_error(
    pipeline: StableDiffusionPipeline, clean: torch.Tensor, text: str, seed: int
) -> tuple[int, float]:
    """The definitions of DDPM and of v, a row at a time: x_t = a x_0 + s e, v = a e - s x_0."""
    timesteps, noise, _ = sample_randomness(torch.tensor([seed]), clean.shape, steps=1000)
    at, e = int(timesteps[0]), noise[0]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = float(torch.prod(1 - betas[: at + 1]))
    a, s = abar**0.5, (1 - abar) ** 0.5
    ids = pipeline.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
    states = pipeline.text_encoder(ids)[0]
    guess = pipeline.unet((a * clean + s * e)[None], at, states).sample[0]
    is_v = pipeline.scheduler.config.prediction_type == "v_prediction"
    truth = a * e - s * clean if is_v else e
    total = 0.0
    for wanted, got in zip(truth.flatten().tolist(), guess.flatten().tolist(), strict=True):
        total += (wanted - got) ** 2
    return at, total / guess.numel()


def test_errors_are_those_of_the_definitions(pipeline: StableDiffusionPipeline) -> None:
    timesteps, errors = denoising_errors(pipeline, latents(), TEXTS, SEEDS)
    expected = [
        one_error(pipeline, *row) for row in zip(latents(), TEXTS, SEEDS.tolist(), strict=True)
    ]
    assert timesteps.tolist() == [at for at, _ in expected]
    assert errors.tolist() == pytest.approx([error for _, error in expected], rel=1e-4)
    assert errors.dtype == torch.float64


def test_an_error_depends_on_its_own_row_only(pipeline: StableDiffusionPipeline) -> None:
    _, errors = denoising_errors(pipeline, latents(), TEXTS, SEEDS)
    order = [4, 2, 0]
    _, some = denoising_errors(pipeline, latents()[order], [TEXTS[i] for i in order], SEEDS[order])
    torch.testing.assert_close(some, errors[order], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near(teacher_folder: Path, dtype: torch.dtype) -> None:
    pipeline = load_pipeline(teacher_folder)
    _, expected = denoising_errors(pipeline, latents(), TEXTS, SEEDS)
    _, errors = denoising_errors(pipeline.to(dtype=dtype), latents(), TEXTS, SEEDS)
    assert errors.dtype == torch.float64
    torch.testing.assert_close(errors, expected, rtol=0.05, atol=0.01)


def test_the_curve_averages_to_the_whole() -> None:
    rng = torch.Generator().manual_seed(0)
    timesteps = torch.randint(1000, (500,), generator=rng)
    timesteps[:2] = torch.tensor([0, 999])
    errors = torch.rand(500, dtype=torch.float64, generator=rng)
    curve = by_timestep(timesteps, errors, steps=1000)
    assert [middle for middle, _ in curve] == [50.0 + 100 * i for i in range(BINS)]
    counts = [
        int(((timesteps >= 100 * i) & (timesteps < 100 * i + 100)).sum()) for i in range(BINS)
    ]
    whole = sum(count * mean for count, (_, mean) in zip(counts, curve, strict=True)) / 500
    assert whole == pytest.approx(errors.mean().item())


def test_ranges_without_any_are_left_out() -> None:
    curve = by_timestep(torch.tensor([5, 95, 901]), torch.tensor([1.0, 3.0, 7.0]), steps=1000)
    assert curve == [[50.0, 2.0], [950.0, 7.0]]


def batch(clean: torch.Tensor | None, rows: slice) -> Pictures:
    prompts = tuple(from_texts(TEXTS, seed=40))[rows]
    pixels = torch.zeros(len(prompts), 3, 16, 16, dtype=torch.uint8)
    theirs = Pictures(prompts, pixels, None if clean is None else clean[rows])
    return Pictures(prompts, pixels + 1, None, theirs)


def on_baseline(pipeline: StableDiffusionPipeline, draws: int, parts: list[slice]) -> Score:
    measuring = DenoisingLoss(draws=draws).begin(Subject(pipeline, pipeline.device))
    for rows in parts:
        measuring.update(batch(latents(), rows))
    (score,) = measuring.scores()
    return score


def test_without_data_it_is_of_the_baselines_latents(pipeline: StableDiffusionPipeline) -> None:
    score = on_baseline(pipeline, 1, [slice(0, 5)])
    expected = [
        one_error(pipeline, clean, text, 40 + i + 1_000_003)[1]
        for i, (clean, text) in enumerate(zip(latents(), TEXTS, strict=True))
    ]
    assert score.items is not None
    assert score.items.ids == tuple(f"{i:06d}" for i in range(5))
    assert score.items.values == pytest.approx(expected, rel=1e-4)
    assert score.value == pytest.approx(sum(expected) / 5, rel=1e-4)
    assert (score.better, score.n) == (Better.LOWER, 5)


def test_draws_are_of_one_prompt_and_differ(pipeline: StableDiffusionPipeline) -> None:
    once, thrice = on_baseline(pipeline, 1, [slice(0, 5)]), on_baseline(pipeline, 3, [slice(0, 5)])
    assert once.items is not None
    assert thrice.items is not None
    assert thrice.n == 5  # draws are no prompts
    assert thrice.items.ids == once.items.ids
    draws = []
    for draw in (1, 2, 3):
        seeds = torch.arange(40, 45) + draw * 1_000_003
        draws.append(denoising_errors(pipeline, latents(), TEXTS, seeds)[1])
    assert not torch.equal(draws[0], draws[1])
    expected = torch.stack(draws).mean(0)
    assert thrice.items.values == pytest.approx(expected.tolist(), rel=1e-5)
    assert thrice.value == pytest.approx(expected.mean().item(), rel=1e-5)


def test_its_noise_is_not_that_which_the_picture_was_made_of(
    pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the prompt's seed it is, a place further: only the timestep is drawn before it."""
    shape = (4, 64, 64)
    used: list[torch.Tensor] = []

    def seen(seeds: torch.Tensor, like: torch.Tensor, *, steps: int) -> tuple[torch.Tensor, ...]:
        used.extend(sample_randomness(seeds, shape, steps=steps)[1])
        return sample_randomness(seeds, like, steps=steps)

    monkeypatch.setattr("bksdm.evaluation.measures.denoising.sample_randomness", seen)
    on_baseline(pipeline, 2, [slice(0, 1)])
    of_picture = torch.randn(shape, generator=torch.Generator().manual_seed(40))
    assert len(used) == 2
    for noise in used:
        for shift in range(4):
            pair = torch.stack([noise.flatten(), of_picture.flatten().roll(-shift)])
            assert abs(pair.corrcoef()[0, 1]) < 0.05


def test_batches_make_no_difference(pipeline: StableDiffusionPipeline) -> None:
    one = on_baseline(pipeline, 2, [slice(0, 5)])
    two = on_baseline(pipeline, 2, [slice(3, 5), slice(0, 1), slice(1, 3)])
    assert one.items is not None
    assert two.items is not None
    assert two.items.ids == one.items.ids
    assert two.items.values == pytest.approx(one.items.values, rel=1e-5)
    assert two.details["by timestep"] == [
        [middle, pytest.approx(mean, rel=1e-5)] for middle, mean in one.details["by timestep"]
    ]


def test_the_baselines_latents_are_needed(pipeline: StableDiffusionPipeline) -> None:
    measuring = DenoisingLoss().begin(Subject(pipeline, pipeline.device))
    with pytest.raises(InputError, match="baseline="):
        measuring.update(Pictures(batch(None, slice(0, 2)).prompts, torch.zeros(2, 3, 16, 16)))
    with pytest.raises(InputError, match="latents: true"):
        measuring.update(batch(None, slice(0, 2)))


def test_on_shapes_it_is_of_the_same_pictures_for_all(pipeline: StableDiffusionPipeline) -> None:
    def score(count: int) -> Score:
        (found,) = (
            ShapesDenoisingLoss(count=count).begin(Subject(pipeline, pipeline.device)).scores()
        )
        return found

    four, six = score(4), score(6)
    assert four.items is not None
    assert six.items is not None
    assert (four.n, six.n) == (4, 6)
    assert six.items.values[:4] == pytest.approx(four.items.values, rel=1e-4)
    assert four.value == pytest.approx(sum(four.items.values) / 4)
    assert len({round(value, 6) for value in six.items.values}) == 6


def test_without_a_baseline_it_is_refused_before_any_picture(
    pipeline: StableDiffusionPipeline,
) -> None:
    with pytest.raises(InputError, match="baseline="):
        DenoisingLoss().begin(Subject(pipeline, pipeline.device, compared=False))


@pytest.mark.parametrize("measure", [DenoisingLoss(), LatentMse()], ids=["loss", "latent MSE"])
def test_a_protocol_without_latents_has_no_measure_of_them(measure: Measure) -> None:
    def protocol(*, latents: bool) -> Protocol:
        return Protocol(
            name="p",
            prompts=ShapesPrompts(count=2, held_out=0, seed=0),
            sampling=Sampling(steps=1, guidance=1.0, batch_size=1),
            keeping=Keeping(),
            measures={"x": measure},
            decide=measure.names[0],
            latents=latents,
        )

    assert protocol(latents=True).wanted == [measure]
    with pytest.raises(InputError, match=r"latents: true, or set protocol\.measures\.x=null"):
        protocol(latents=False)


def test_two_processes_share_the_pictures_and_find_what_one_finds(
    pipeline: StableDiffusionPipeline, teacher_folder: Path
) -> None:
    """Five pictures are three and two."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--standalone", "-m", "tests.evaluation.measures.shapes_on_two_processes"]
    done = subprocess.run(
        [*command, str(teacher_folder)],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 2
    assert sorted(line["rows"] for line in lines) == [2, 3]
    (alone,) = ShapesDenoisingLoss(count=5).begin(Subject(pipeline, pipeline.device)).scores()
    assert alone.items is not None
    for line in lines:
        assert line["ids"] == list(alone.items.ids)
        assert line["values"] == pytest.approx(list(alone.items.values), rel=1e-4)
        assert [middle for middle, _ in line["curve"]] == [
            middle for middle, _ in alone.details["by timestep"]
        ]
    assert lines[0]["values"] == lines[1]["values"]


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_impossible_counts_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="draws"):
        DenoisingLoss(draws=value)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="count"):
        ShapesDenoisingLoss(count=value)  # type: ignore[arg-type]
