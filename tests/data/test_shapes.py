import numpy as np
import pytest

from bksdm.data.shapes import HELD_OUT, Scene, Thing, draw, parse, sample_scene, samples
from bksdm.errors import InputError


def test_captions_parse_back() -> None:
    for scene, _ in samples(200, seed=0):
        assert parse(scene.caption) == scene


@pytest.mark.parametrize(
    "caption", ["", "a dog", "a big red circle", "a big red circle on a red background"]
)
def test_other_captions_are_refused(caption: str) -> None:
    with pytest.raises(InputError, match="shapes world"):
        parse(caption)


def test_training_never_shows_a_held_out_pair_and_held_out_always_does() -> None:
    def pairs(scene: Scene) -> set[tuple[str, str]]:
        return {(thing.shape, thing.color) for thing in scene.things}

    assert all(not pairs(scene) & HELD_OUT for scene, _ in samples(300, seed=0))
    assert all(pairs(scene) & HELD_OUT for scene, _ in samples(50, seed=0, held_out=True))


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    (first, image), *_ = samples(1, seed=5)
    again = next(iter(samples(100, seed=5)))
    assert (first, image.tobytes()) == (again[0], again[1].tobytes())
    assert next(iter(samples(1, seed=6)))[0] != first


def test_things_stay_inside_the_picture() -> None:
    scene = Scene((Thing("big", "red", "square"), Thing("big", "blue", "square")), "above", "white")
    for seed in range(50):
        pixels = np.asarray(draw(scene, np.random.default_rng(seed)))
        areas = [(pixels == color).all(-1).sum() for color in [(214, 39, 40), (31, 80, 200)]]
        assert all(700 <= area <= 784 for area in areas)  # 28 x 28, less the anti-aliased edge


def test_scenes_check_themselves() -> None:
    with pytest.raises(InputError, match="colours differ"):
        Scene((Thing("big", "red", "square"),), None, "red")


def test_one_and_two_object_scenes_both_occur() -> None:
    counts = [len(sample_scene(np.random.default_rng(i)).things) for i in range(200)]
    assert 90 < sum(count == 2 for count in counts) < 150
