import numpy as np
import pytest
import torch
from PIL import Image

from bksdm.evaluation.keeping import to_image
from bksdm.evaluation.measures.hps import Padded
from bksdm.evaluation.measures.inputs import CLIP_MEAN, CLIP_STD, Fit, Input


def picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def prepared(image: Image.Image) -> torch.Tensor:
    return torch.tensor((np.asarray(image) / 255 - CLIP_MEAN) / CLIP_STD).permute(2, 0, 1).float()


# Sizes and boxes as torchvision's Resize and CenterCrop have them, worked out by hand.
@pytest.mark.parametrize(
    ("fit", "shape", "size", "box"),
    [
        (Fit.SHORTEST, (48, 64), (26, 20), (3, 0, 23, 20)),
        (Fit.SHORTEST, (64, 45), (20, 28), (0, 4, 20, 24)),
        (Fit.SHORTEST, (20, 25), (25, 20), (2, 0, 22, 20)),  # half a pixel: to the even side
        (Fit.SQUASH, (48, 64), (20, 20), (0, 0, 20, 20)),
    ],
)
def test_a_picture_that_is_no_square(
    fit: Fit, shape: tuple[int, int], size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    pixels = picture(*shape)
    expected = to_image(pixels[0]).resize(size, Image.Resampling.BICUBIC).crop(box)
    found = Input(size=20, fit=fit, mean=CLIP_MEAN, std=CLIP_STD)(pixels)
    torch.testing.assert_close(found[0], prepared(expected), atol=1e-6, rtol=0)


def test_the_crop_of_cmmd_comes_before_the_resize() -> None:
    pixels = picture(48, 64)
    cropped = to_image(pixels[0]).crop((8, 0, 56, 48))
    found = Input(size=20, fit=Fit.CROP, mean=CLIP_MEAN, std=CLIP_STD)(pixels)
    expected = prepared(cropped.resize((20, 20), Image.Resampling.BICUBIC))
    torch.testing.assert_close(found[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("upright", [False, True])
def test_hps_pads_with_black(upright: bool) -> None:
    lying = torch.full((1, 3, 11, 20), 255, dtype=torch.uint8)
    found = Padded(size=20, antialias=True)(lying.mT if upright else lying)[0]
    found = found.mT if upright else found
    white, black = prepared(Image.new("RGB", (1, 1), "white")), prepared(Image.new("RGB", (1, 1)))
    assert found.shape == (3, 20, 20)
    torch.testing.assert_close(found[:, 4:15], white.expand(3, 11, 20))
    torch.testing.assert_close(found[:, :4], black.expand(3, 4, 20))
    torch.testing.assert_close(found[:, 15:], black.expand(3, 5, 20))


def test_the_resize_of_hps_is_antialiased_unless_told() -> None:
    pixels = picture(48, 48)
    channels = [Image.fromarray(each.numpy().astype(np.float32)) for each in pixels[0]]
    resized = [
        each.resize((20, 20), Image.Resampling.BICUBIC) for each in channels
    ]  # PIL always is
    values = np.stack([np.asarray(each) / 255 for each in resized], axis=-1)
    expected = torch.tensor((values - CLIP_MEAN) / CLIP_STD).permute(2, 0, 1).float()
    found, without = (Padded(size=20, antialias=each)(pixels)[0] for each in (True, False))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert float((without - expected).abs().max()) > 0.5
