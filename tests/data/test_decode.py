import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bksdm.data.decode import BadSampleError, decode_array, decode_caption, decode_picture
from tests.data.hostile import bomb


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image", "kind", "color"),
    [
        (Image.new("RGB", (4, 4), (10, 20, 30)), "PNG", (10, 20, 30)),
        (Image.new("L", (4, 4), 77), "PNG", (77, 77, 77)),
        (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG", (127, 127, 127)),
        (Image.new("LA", (4, 4), (0, 255)), "PNG", (0, 0, 0)),
        (Image.new("P", (4, 4), 0), "PNG", (0, 0, 0)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", (254, 0, 0)),
        (Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "PNG", (156, 156, 156)),
        (Image.new("RGB", (4, 4), (200, 20, 30)), "WEBP", (200, 20, 30)),
    ],
    ids=["rgb", "grey", "bits", "clear", "half", "grey+alpha", "palette", "cmyk", "16 bit", "webp"],
)
def test_every_mode_becomes_rgb(image: Image.Image, kind: str, color: tuple[int, int, int]) -> None:
    found = decode_picture(encoded(image, kind))
    assert found.mode == "RGB"
    np.testing.assert_allclose(found.getpixel((1, 1)), color, atol=4)


def test_pictures_are_turned_as_exif_says() -> None:
    image = Image.new("RGB", (8, 4), (255, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode_picture(encoded(image, "JPEG", exif=exif)).size == (4, 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty picture"),
        (b"text", "not a picture"),
        (bomb(), "too many pixels"),
        (bomb(10_000), "too many pixels"),
        (encoded(Image.new("RGB", (4, 4)), "GIF"), "not a picture"),
        (encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")[:600], "broken picture"),
    ],
    ids=["empty", "text", "bomb", "large", "gif", "cut off"],
)
def test_what_is_no_picture_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadSampleError) as caught:
        decode_picture(data)
    assert caught.value.reason == reason


def test_captions_are_utf8() -> None:
    assert decode_caption(" ein großer Kreis\n".encode()) == "ein großer Kreis"
    with pytest.raises(BadSampleError, match="caption is not UTF-8"):
        decode_caption("Straße".encode("latin-1"))


def test_arrays_of_objects_are_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(BadSampleError, match="broken latents"):
        decode_array(buffer.getvalue())
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    assert decode_array(buffer.getvalue()).tolist() == [0, 1, 2]
