import contextlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bksdm.data.decode import BadSampleError, decode_caption, decode_latents, decode_picture
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


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def test_latents_come_back() -> None:
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    assert np.array_equal(decode_latents(npy(values), shape=(2, 3, 4)), values)


@pytest.mark.parametrize(
    "data",
    [
        npy(np.array([{"a": 1}])),
        npy(np.arange(3)),
        npy(np.array(["text"])),
        npy(np.zeros((2, 2), np.float16)),
        npy(np.asfortranarray(np.zeros((2, 3, 4), np.float16))),
        npy(np.zeros((2, 3, 4), np.float16))[:-1],
        npy(np.zeros((2, 3, 4), np.float16)).replace(b"{'descr'", b"{{{{{{{{"),
        b"PK\x03\x04 an npz",
        b"",
    ],
    ids=["object", "int", "text", "shape", "columns", "short", "header", "npz", "empty"],
)
def test_what_are_no_latents_is_a_bad_sample(data: bytes) -> None:
    with pytest.raises(BadSampleError, match="broken latents"):
        decode_latents(data, shape=(2, 3, 4))


def test_changed_bytes_never_raise_anything_else() -> None:
    whole = npy(np.zeros((2, 3, 4), np.float16))
    rng = np.random.default_rng(0)
    for _ in range(2000):
        data = bytearray(whole)
        for place in rng.integers(0, 130, 3):
            data[place] = rng.integers(256)
        with contextlib.suppress(BadSampleError):
            decode_latents(data, shape=(2, 3, 4))
