import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bksdm.evaluation.keeping import Keeping, to_image
from bksdm.evaluation.measures import cmmd
from bksdm.evaluation.measures.clip import ClipFeatures
from bksdm.evaluation.measures.cmmd import Cmmd, discrepancy
from bksdm.evaluation.measures.features import FEATURES
from bksdm.evaluation.measures.inputs import CLIP_MEAN, CLIP_STD
from bksdm.evaluation.measures.on_features import OnFeatures
from tests.evaluation.measures.networks import CPU, Noise, noise, pictures, subject
from tests.evaluation.measures.transformers_folders import clip_folder


def unit_rows(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    rows = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)).double()
    rows[:, 0] += shift
    return rows / rows.norm(dim=1, keepdim=True)


def by_pairs(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Biased and unbiased, a pair at a time."""

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return math.exp(-sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True)) / 200)

    def mean(a: torch.Tensor, b: torch.Tensor, *, itself: bool) -> float:
        values = [
            kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(b) if itself or i != j
        ]
        return sum(values) / len(values)

    cross = 2 * mean(first, second, itself=True)
    biased, unbiased = (
        mean(first, first, itself=itself) + mean(second, second, itself=itself) - cross
        for itself in (True, False)
    )
    return 1000 * biased, 1000 * unbiased


@pytest.mark.parametrize("block", [3, 7, 2048])
def test_it_is_the_sum_over_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmmd, "_BLOCK", block)
    first, second = unit_rows(9, 0), unit_rows(7, 1, shift=1.0)
    found = discrepancy(first, second)
    biased, unbiased = by_pairs(first, second)
    assert found.biased == pytest.approx(biased, abs=1e-9)
    assert found.unbiased == pytest.approx(unbiased, abs=1e-9)


def test_it_is_nearly_ten_times_the_squared_distance_of_means() -> None:
    first, second = unit_rows(400, 0), unit_rows(300, 1, shift=2.0)
    near = 10 * float((first.mean(0) - second.mean(0)).square().sum())
    assert discrepancy(first, second).biased == pytest.approx(near, rel=0.02)


def test_the_bias_is_that_of_the_diagonal() -> None:
    one = unit_rows(500, 0)
    found = discrepancy(one[:250], one[250:])
    # 1000 (1 - mean kernel) (1/n + 1/m), with squared distances of about 2 between rows
    assert found.biased - found.unbiased == pytest.approx(1000 * 2 / 200 * 2 / 250, rel=0.02)
    assert abs(found.unbiased) < found.biased / 2
    assert discrepancy(one, one).biased == pytest.approx(0, abs=1e-10)


def test_single_pictures_have_no_unbiased_estimate() -> None:
    first, second = unit_rows(1, 0), unit_rows(1, 1)
    found = discrepancy(first, second)
    assert found.biased == pytest.approx(by_one_pair(first, second))
    assert math.isnan(found.unbiased)


def by_one_pair(first: torch.Tensor, second: torch.Tensor) -> float:
    return 2000 * (1 - math.exp(-float((first - second).square().sum()) / 200))


def test_of_a_clip_and_pictures(tmp_path: Path) -> None:
    network = clip_folder(tmp_path).double()
    measure = OnFeatures(
        network=ClipFeatures(weights=str(tmp_path)), metrics=[Cmmd(reference=Noise(6, 1))]
    )
    measuring = measure.begin(subject(Keeping()))
    for start in (0, 4):
        measuring.update(pictures(noise(9, seed=0)[start : start + 5][: 4 + start], start=start))
    biased, unbiased = measuring.scores()

    def vectors(pixels: torch.Tensor) -> torch.Tensor:
        images = [to_image(each).resize((28, 28), Image.Resampling.BICUBIC) for each in pixels]
        values = np.stack([(np.asarray(each) / 255 - CLIP_MEAN) / CLIP_STD for each in images])
        seen = network.vision_model(torch.tensor(values).permute(0, 3, 1, 2)).pooler_output
        side = (seen @ network.visual_projection.weight.T).detach()
        return side / side.norm(dim=1, keepdim=True)

    expected = by_pairs(vectors(noise(9, seed=0)), vectors(noise(6, seed=1)))
    assert (biased.name, unbiased.name) == ("CMMD", "CMMD unbiased")
    assert biased.n == 9
    assert biased.value == pytest.approx(expected[0], rel=1e-4)
    assert unbiased.value == pytest.approx(expected[1], rel=1e-4)
    assert "centre crop to a square" in biased.details["network"]["input"]


def test_beside_the_same_pictures_it_is_nought(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    network = ClipFeatures(weights=str(tmp_path))
    measuring = OnFeatures(
        network=network, metrics=[Cmmd(reference="baseline", name="CMMD to baseline")]
    ).begin(subject())
    pixels = noise(5, seed=0)
    measuring.update(pictures(pixels, baseline=pixels.clone()))
    assert measuring.scores()[0].value == pytest.approx(0, abs=1e-9)
    assert network.load(CPU)(pixels)[FEATURES].shape == (5, 24)
