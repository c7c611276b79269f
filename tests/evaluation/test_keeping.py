import io

import numpy as np
import pytest
import torch
from PIL import Image

from bksdm.errors import InputError
from bksdm.evaluation.keeping import RESAMPLING, Keeping, read_picture, to_image


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=rng)


def smooth(side: int) -> torch.Tensor:
    row = torch.linspace(0, 255, side)
    return torch.stack(
        [row.expand(side, side), row.flip(0).expand(side, side).T, row[:, None].expand(side, side)]
    ).to(torch.uint8)


def test_a_png_loses_nothing() -> None:
    assert torch.equal(read_picture(Keeping().generated(noise(9, 9))), noise(9, 9))


def test_a_jpeg_is_pils() -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(24, 24).permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=60)
    assert Keeping(jpeg_quality=60).generated(noise(24, 24)) == buffer.getvalue()


def test_better_jpegs_are_nearer() -> None:
    def error(quality: int) -> float:
        found = read_picture(Keeping(jpeg_quality=quality).generated(smooth(32)))
        return (found.float() - smooth(32).float()).abs().mean().item()

    assert error(95) < error(60) < error(10)


@pytest.mark.parametrize("resample", RESAMPLING)
def test_a_photograph_is_squashed_as_pil_does(resample: str) -> None:
    photograph = Image.fromarray(noise(20, 40).permute(1, 2, 0).numpy())
    found = read_picture(Keeping(size=10, resample=resample).real(photograph))
    expected = np.asarray(photograph.resize((10, 10), Image.Resampling[resample.upper()]))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_squashing_keeps_the_sides_and_cropping_drops_them() -> None:
    left_red = np.zeros((8, 16, 3), dtype=np.uint8)
    left_red[:, :4, 0] = 255
    photograph = Image.fromarray(left_red)
    squashed = read_picture(Keeping(size=8, resample="box").real(photograph))
    assert squashed[0, :, :2].eq(255).all()
    cropped = read_picture(Keeping(size=8, resample="box", crop=True).real(photograph))
    assert cropped.eq(0).all()


def test_a_generated_picture_may_be_a_jpeg_twice() -> None:
    once, twice = (
        Keeping(jpeg_quality=50, size=16),
        Keeping(jpeg_quality=50, size=16, jpeg_first=True),
    )
    picture = noise(32, 32)
    assert once.generated(picture) != twice.generated(picture)
    first = Image.open(io.BytesIO(Keeping(jpeg_quality=50).generated(picture)))
    assert twice.generated(picture) == once.real(first)
    assert once.generated(picture) == once.real(to_image(picture))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_photographs_of_any_mode_become_rgb(mode: str) -> None:
    photograph = Image.fromarray(noise(8, 8).permute(1, 2, 0).numpy()).convert(mode)
    assert read_picture(Keeping().real(photograph)).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "keeping.size=0"),
        ({"size": 2.5}, "keeping.size=2.5"),
        ({"jpeg_quality": 0}, "keeping.jpeg_quality=0"),
        ({"jpeg_quality": 101}, "keeping.jpeg_quality=101"),
        ({"resample": "nearest"}, "keeping.resample=nearest"),
        ({"jpeg_first": "yes"}, "keeping.jpeg_first=yes"),
        ({"crop": 1}, "keeping.crop=1"),
        ({"jpeg_first": True}, "jpeg_quality"),
    ],
)
def test_impossible_keeping_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Keeping(**settings)  # type: ignore[arg-type]
