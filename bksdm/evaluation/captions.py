"""Captions of contact sheets: a font that has the characters, and lines that fit."""

from functools import lru_cache
from typing import Final

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Looked for where the system keeps fonts, for what PIL's own, which is Latin, does not have.
_OTHERS: Final = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
_NO_CHARACTER: Final = "\U0010ffff"
_MORE: Final = "..."


def font_for(text: str, size: int) -> Font:
    """PIL's own font, or the first on this machine that has all characters of the text; where none
    has, PIL's, which draws a box for each that is missing.
    """
    own = ImageFont.load_default(size)
    if text.isascii():
        return own
    fonts = [own, *(font for name in _OTHERS if (font := _system_font(name, size)) is not None)]
    return next((font for font in fonts if _has_all(font, text)), own)


def lines(text: str, font: Font, *, width: float, most: int) -> list[str]:
    """The text in at most so many lines of that many pixels; "..." ends what is cut off. A word
    that is longer than a line is broken, as those of languages without spaces are.
    """
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            found[-1] = longer
            continue
        pieces = _pieces(word, font, width)
        found = [*(line for line in found if line), *pieces]
    if len(found) <= most:
        return found
    last = found[most - 1]
    while last and font.getlength(last + _MORE) > width:
        last = last[:-1]
    return [*found[: most - 1], last + _MORE]


def _pieces(word: str, font: Font, width: float) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


@lru_cache
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has_all(font: Font, text: str) -> bool:
    box = bytes(font.getmask(_NO_CHARACTER))
    return all(bytes(font.getmask(each)) != box for each in set(text) if not each.isspace())
