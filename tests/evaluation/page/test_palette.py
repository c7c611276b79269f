"""Colours of page.css: text that can be read, in light and dark."""

import re
from importlib.resources import files
from itertools import product

import pytest

from bksdm.evaluation.page.models import COLOURS

CSS = (files("bksdm.evaluation.page") / "page.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6});", block))
    for block in re.findall(r":root \{(.*?)\}", CSS, flags=re.S)
)
TEXT = ("ink", "muted", "link", "good", "bad", *(f"m{number}" for number in range(COLOURS)))


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("theme", "name"), list(product(("light", "dark"), TEXT)))
def test_text_stands_out_from_paper_and_shade(theme: str, name: str) -> None:
    colours = LIGHT if theme == "light" else DARK
    for ground in ("paper", "shade"):
        bright, dim = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (name, ground)
