import numpy as np
import pytest
import torch
from PIL import Image

from bksdm.data.shapes import COLORS, RELATIONS, SHAPES, Scene, Thing, draw, samples
from bksdm.errors import InputError
from bksdm.evaluation.attributes import ATTRIBUTES, OutlineNet, attribute_scores
from bksdm.evaluation.measures.attributes import load_outline_net


@pytest.fixture(scope="module")
def net() -> OutlineNet:
    return load_outline_net()


def tensor(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack(
        [torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in images]
    )


def scores(scene: Scene, caption: str, net: OutlineNet) -> dict[str, float]:
    result = attribute_scores(tensor([draw(scene, np.random.default_rng(0))]), [caption], net)
    return {name: value.item() for name, value in result.items()}


ONE = Scene((Thing("big", "red", "circle"),), None, "white")
TWO = Scene((Thing("big", "red", "circle"), Thing("small", "blue", "cross")), "left of", "white")


def test_real_pictures_are_right_in_everything(net: OutlineNet) -> None:
    scenes, images = zip(*samples(300, seed=77), strict=True)
    result = attribute_scores(tensor(list(images)), [scene.caption for scene in scenes], net)
    assert {name: value.nanmean().item() for name, value in result.items()} == dict.fromkeys(
        ATTRIBUTES, 1.0
    )


def test_held_out_combinations_are_read_too(net: OutlineNet) -> None:
    scenes, images = zip(*samples(100, seed=77, held_out=True), strict=True)
    result = attribute_scores(tensor(list(images)), [scene.caption for scene in scenes], net)
    assert result["all"].mean() == 1


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a big red circle on a black background", {"background"}),
        ("a small red circle on a white background", {"size"}),
        ("a big red cross on a white background", {"shape"}),
        ("a big green circle on a white background", {"color", "size", "shape", "count"}),
    ],
)
def test_each_attribute_fails_alone(net: OutlineNet, caption: str, wrong: set[str]) -> None:
    found = scores(ONE, caption, net)
    assert {name for name, value in found.items() if value == 0} == wrong | {"all"}


@pytest.mark.parametrize("relation", RELATIONS)
def test_only_the_true_relation_is_right(net: OutlineNet, relation: str) -> None:
    found = scores(TWO, TWO.caption.replace("left of", relation), net)
    assert found["relation"] == found["all"] == (relation == "left of")


def test_swapped_objects_are_a_wrong_relation(net: OutlineNet) -> None:
    found = scores(TWO, "a small blue cross left of a big red circle on a white background", net)
    assert (found["color"], found["shape"], found["relation"], found["all"]) == (1, 1, 0, 0)


def test_an_extra_object_is_a_wrong_count(net: OutlineNet) -> None:
    found = scores(TWO, "a big red circle on a white background", net)
    assert (found["color"], found["count"], found["all"]) == (1, 0, 0)


def test_a_missing_object_is_half_right(net: OutlineNet) -> None:
    found = scores(ONE, TWO.caption, net)
    assert (found["color"], found["shape"], found["relation"], found["count"]) == (0.5, 0.5, 0, 0)


def test_a_broken_square_is_no_shape(net: OutlineNet) -> None:
    pixels = np.full((64, 64, 3), COLORS["white"], dtype=np.uint8)
    pixels[18:46, 18:46] = COLORS["red"]
    pixels[18:32, 32:46] = COLORS["white"]
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    for shape in SHAPES:
        caption = f"a big red {shape} on a white background"
        assert attribute_scores(picture, [caption], net)["shape"].item() == 0


def test_noise_is_nothing(net: OutlineNet) -> None:
    pixels = torch.randint(
        0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    assert attribute_scores(pixels, [ONE.caption] * 4, net)["all"].sum() == 0


def test_pictures_of_another_size_are_refused(net: OutlineNet) -> None:
    with pytest.raises(InputError, match="3x64x64"):
        attribute_scores(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), [ONE.caption], net)
