"""Contact sheets: one row a prompt, one column a model, with the captions written beside them."""

from collections.abc import Mapping, Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bksdm.evaluation.keeping import to_image

_GAP, _MIN_CELL, _FONT_SIZE = 6, 128, 14
_PAPER: Final = (255, 255, 255)
_INK: Final = (20, 20, 20)


def grid(columns: Mapping[str, Sequence[Tensor]], captions: Sequence[str]) -> Image.Image:
    """Draw {column title: uint8 pictures (3, H, W), one a caption} as one picture."""
    first = next(iter(columns.values()))[0]
    zoom = max(1, -(-_MIN_CELL // first.shape[-1]))
    cell = first.shape[-1] * zoom
    font = ImageFont.load_default(_FONT_SIZE)
    text_width = 2 * cell
    head = _FONT_SIZE + 2 * _GAP
    sheet = Image.new(
        "RGB",
        (text_width + len(columns) * (cell + _GAP) + _GAP, head + len(captions) * (cell + _GAP)),
        _PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    for i, (title, pictures) in enumerate(columns.items()):
        left = text_width + i * (cell + _GAP)
        pen.text((left + cell / 2, head / 2), title, fill=_INK, font=font, anchor="mm")
        for j, pixels in enumerate(pictures):
            picture = to_image(pixels).resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, head + j * (cell + _GAP)))
    for j, caption in enumerate(captions):
        pen.multiline_text(
            (_GAP, head + j * (cell + _GAP) + _GAP), _wrapped(caption, text_width, font), _INK, font
        )
    return sheet


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width - 2 * _GAP:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
