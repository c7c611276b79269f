from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ImageFilter
from torch import Tensor

from bksdm.data.shapes import draw, parse, samples
from bksdm.errors import InputError
from bksdm.evaluation.keeping import Keeping, to_image
from bksdm.evaluation.measures.frechet import Frechet
from bksdm.evaluation.measures.on_features import OnFeatures
from bksdm.evaluation.measures.shapes_features import DrawnPrompts, ShapesVae
from bksdm.evaluation.prompts import ShapesPrompts
from tests.evaluation.measures.networks import CPU, noise, pictures, subject

PROMPTS = ShapesPrompts(count=96, held_out=32, seed=5)


def pixels_of(images: object) -> Tensor:
    return torch.stack(
        [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]  # type: ignore[attr-defined]
    )


@pytest.fixture(scope="module")
def distance() -> Callable[[Tensor], float]:
    """To the drawn reference."""
    reference = DrawnPrompts(prompts=PROMPTS)
    measure = OnFeatures(
        network=ShapesVae(), metrics=[Frechet(reference=reference, name="FD shapes")]
    )
    ready = measure.begin(subject())

    def found(pixels: Tensor) -> float:
        fresh = type(ready)(measure, ready.extractor, ready.references, CPU)
        fresh.update(pictures(pixels))
        return fresh.scores()[0].value

    return found


@pytest.fixture(scope="module")
def real() -> Tensor:
    """One picture of each prompt, at positions that the reference has not."""
    scenes = [parse(prompt.text) for prompt in PROMPTS.read()]
    return pixels_of(draw(scene, np.random.default_rng((1, i))) for i, scene in enumerate(scenes))


def noisy(pixels: Tensor, deviation: float) -> Tensor:
    added = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)) * deviation
    return (pixels.float() + added).round().clamp(0, 255).byte()


def blurred(pixels: Tensor, radius: float) -> Tensor:
    return pixels_of(to_image(each).filter(ImageFilter.GaussianBlur(radius)) for each in pixels)


def test_it_rises_with_damage_and_is_small_without(
    distance: Callable[[Tensor], float], real: Tensor
) -> None:
    floor = distance(real)
    scenes = [parse(prompt.text) for prompt in PROMPTS.read()]
    lost = pixels_of(
        draw(replace(scene, things=scene.things[:1], relation=None), np.random.default_rng((1, i)))
        for i, scene in enumerate(scenes)
    )
    assert 0 < floor < 0.02
    assert 4 * floor < distance(noisy(real, 20)) < distance(noisy(real, 40)) / 4
    assert 4 * floor < distance(blurred(real, 1)) < distance(blurred(real, 2)) / 4
    assert distance(lost) > 50 * floor
    assert distance(pixels_of(image for _, image in samples(128, seed=3))) > 20 * floor


def test_the_reference_is_the_same_each_time_and_kept_as_the_pictures_are() -> None:
    drawn = DrawnPrompts(prompts=ShapesPrompts(count=70, held_out=5, seed=5), draws=2)
    plain, again, small = (
        torch.cat(list(drawn.batches(keeping)))
        for keeping in (Keeping(), Keeping(), Keeping(jpeg_quality=75, size=32))
    )
    assert torch.equal(plain, again)
    assert plain.shape == (150, 3, 64, 64)
    assert small.shape == (150, 3, 32, 32)
    assert not torch.equal(plain[:75], plain[75:])  # the second draw has other positions


def test_features_have_the_told_length() -> None:
    extract = ShapesVae().load(CPU)
    (features,) = extract(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).values()
    assert features.shape == (2, *extract.dims.values()) == (2, 72)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="pictures of 8x8; ShapesVae takes the 64x64"):
        ShapesVae().load(CPU)(noise(2, seed=0))
