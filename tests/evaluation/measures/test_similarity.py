import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from bksdm.errors import InputError
from bksdm.evaluation.measure import Measure, Pictures
from bksdm.evaluation.measures.similarity import LatentMse, Ssim
from bksdm.evaluation.prompts import from_texts
from bksdm.evaluation.score import Better, Score
from tests.evaluation.measures.networks import subject

COUNT, SIDE = 5, 24


def pictures(
    seed: int, *, like: Pictures | None = None, side: int = SIDE, latents: bool = True
) -> Pictures:
    rng = torch.Generator().manual_seed(seed)
    prompts = tuple(from_texts([f"{i}" for i in range(COUNT)], seed=0))
    pixels = torch.randint(0, 256, (COUNT, 3, side, side), dtype=torch.uint8, generator=rng)
    if like is not None:  # some are nearly the baseline's
        share = torch.linspace(0, 1, COUNT)[:, None, None, None]
        pixels = (share * pixels + (1 - share) * like.pixels).round().to(torch.uint8)
    own = torch.randn(COUNT, 4, side // 8, side // 8, generator=rng) if latents else None
    return Pictures(prompts, pixels, own, like)


def part(whole: Pictures, rows: slice) -> Pictures:
    latents = None if whole.latents is None else whole.latents[rows]
    baseline = None if whole.baseline is None else part(whole.baseline, rows)
    return Pictures(whole.prompts[rows], whole.pixels[rows], latents, baseline)


def measured(measure: Measure, *batches: Pictures) -> list[Score]:
    measuring = measure.begin(subject())
    for batch in batches:
        measuring.update(batch)
    return list(measuring.scores())


def ssim(one: np.ndarray, two: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, on (3, H, W) in [0, 1]: 11x11 Gaussian, sigma 1.5, mean over
    the places where the window lies within the picture.
    """
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def mean(plane: np.ndarray) -> np.ndarray:
        rows = correlate1d(correlate1d(plane, kernel, axis=0), kernel, axis=1)
        return rows[5:-5, 5:-5]

    values = []
    for x, y in zip(one, two, strict=True):
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        values.append(
            ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
        )
    return float(np.mean(values))


def test_ssim_is_the_papers() -> None:
    theirs = pictures(1)
    ours = pictures(2, like=theirs)
    (score,) = measured(Ssim(), ours)
    expected = [
        ssim(one.numpy() / 255, two.numpy() / 255)
        for one, two in zip(ours.pixels, theirs.pixels, strict=True)
    ]
    assert score.items is not None
    assert score.items.values == pytest.approx(expected, abs=1e-4)
    assert expected[0] == pytest.approx(1)
    assert expected[-1] < 0.1
    assert score.value == pytest.approx(np.mean(expected), abs=1e-4)
    assert (score.better, score.n) == (Better.NEITHER, COUNT)


def test_latents_are_compared_by_their_mean_squared_difference() -> None:
    theirs = pictures(1)
    ours = pictures(2, like=theirs)
    (score,) = measured(LatentMse(), ours)
    assert ours.latents is not None
    assert theirs.latents is not None
    difference = ours.latents.double().numpy() - theirs.latents.double().numpy()
    assert score.items is not None
    assert score.items.values == pytest.approx((difference**2).mean((1, 2, 3)), rel=1e-5)
    assert score.value == pytest.approx((difference**2).mean(), rel=1e-5)


@pytest.mark.parametrize("measure", [Ssim(), LatentMse()], ids=["SSIM", "latent MSE"])
def test_batches_make_no_difference(measure: Measure) -> None:
    whole = pictures(2, like=pictures(1))
    (one,) = measured(measure, whole)
    (two,) = measured(
        measure, part(whole, slice(3, 5)), part(whole, slice(0, 1)), part(whole, slice(1, 3))
    )
    assert one.items is not None
    assert two.items is not None
    assert one.items.ids == two.items.ids
    assert one.items.values == pytest.approx(two.items.values, rel=1e-6)


@pytest.mark.parametrize("measure", [Ssim(), LatentMse()], ids=["SSIM", "latent MSE"])
def test_the_baseline_is_not_compared_with_itself(measure: Measure) -> None:
    alone = pictures(1)
    itself = Pictures(alone.prompts, alone.pixels, alone.latents, alone)
    assert measured(measure, alone) == []
    assert measured(measure, itself) == []


@pytest.mark.parametrize(
    ("measure", "ours", "words"),
    [
        (Ssim(), pictures(2, side=32), "32 pixels beside the baseline's 24"),
        (LatentMse(), pictures(2, side=32), "same VAE"),
        (LatentMse(), pictures(2, latents=False), "latents: true"),
    ],
    ids=["pixels", "latents", "no latents"],
)
def test_what_cannot_be_compared_is_refused(measure: Measure, ours: Pictures, words: str) -> None:
    beside = Pictures(ours.prompts, ours.pixels, ours.latents, pictures(1))
    with pytest.raises(InputError, match=words):
        measured(measure, beside)
