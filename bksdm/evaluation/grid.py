"""Contact sheets: one row a prompt, one column a model, with the captions written beside them."""

from collections.abc import Mapping, Sequence
from typing import Final

from PIL import Image, ImageDraw
from torch import Tensor

from bksdm.evaluation.captions import font_for, lines
from bksdm.evaluation.keeping import to_image

_GAP: Final = 6
_LIMIT: Final = 4000  # pixels of a page's side: what viewers still open at once
_MIN_CELL, _COMFORTABLE_CELL, _MOST_ROWS = 128, 256, 24
_SMALL_FONT, _LARGE_FONT = 14, 28
_TITLE_LINES: Final = 3
_PAPER: Final = (255, 255, 255)
_INK: Final = (20, 20, 20)
_PALE: Final = (120, 120, 120)


def rows_of_a_page(picture: int) -> int:
    """How many rows of pictures of that side make a page that is pleasant to look at."""
    cell = min(_zoomed(picture), _COMFORTABLE_CELL)
    return min(_MOST_ROWS, (_LIMIT - _head(_LARGE_FONT)) // (cell + _GAP))


def grid(
    columns: Mapping[str, Sequence[Tensor | None]],
    captions: Sequence[str],
    notes: Sequence[str] = (),
) -> Image.Image:
    """Draw a page.

    Small pictures are enlarged by a whole factor without smoothing; large ones are shrunk if the
    page would be larger than 4000 pixels otherwise, but not below 128.

    Args:
        columns: by title: uint8 pictures (3, H, H), one a caption; None leaves a cell empty.
        captions: of the rows; cut off where they would run into the next.
        notes: small print of the rows, under the captions.
    """
    side = max(each.shape[-1] for column in columns.values() for each in column if each is not None)
    cell = _cell(side, rows=len(captions), columns=len(columns))
    size = min(_LARGE_FONT, max(_SMALL_FONT, cell // 16))
    fonts = {title: font_for(title, size) for title in columns}
    heads = {
        title: lines(title, font, width=cell, most=_TITLE_LINES) for title, font in fonts.items()
    }
    text_width, head = max(cell, 2 * _MIN_CELL), _head(size, count=max(map(len, heads.values())))
    sheet = Image.new(
        "RGB",
        (text_width + len(columns) * (cell + _GAP) + _GAP, head + len(captions) * (cell + _GAP)),
        _PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    for i, (title, pictures) in enumerate(columns.items()):
        left = text_width + i * (cell + _GAP)
        middle, text = (left + cell / 2, head / 2), "\n".join(heads[title])
        pen.multiline_text(middle, text, _INK, fonts[title], anchor="mm", align="center")
        for j, pixels in enumerate(pictures):
            if pixels is not None:
                picture = _fitted(to_image(pixels), cell)
                margin = (cell - picture.width) // 2
                sheet.paste(picture, (left + margin, head + j * (cell + _GAP) + margin))
    for j, caption in enumerate(captions):
        note = notes[j] if notes else ""
        _write(pen, caption, note, at=head + j * (cell + _GAP), box=(text_width, cell), size=size)
    return sheet


def _write(
    pen: ImageDraw.ImageDraw, caption: str, note: str, *, at: int, box: tuple[int, int], size: int
) -> None:
    width, height = box[0] - 2 * _GAP, box[1] - _GAP
    line = size + _GAP
    font = font_for(caption, size)
    room = max(1, height // line - bool(note))
    written = lines(caption, font, width=width, most=room)
    for text, ink in [*((text, _INK) for text in written), (note, _PALE)]:
        pen.text((_GAP, at), text, fill=ink, font=font if ink == _INK else font_for(text, size))
        at += line


def _head(font_size: int, *, count: int = _TITLE_LINES) -> int:
    return count * (font_size + _GAP) + _GAP


def _zoomed(side: int) -> int:
    return side * max(1, -(-_MIN_CELL // side))


def _cell(side: int, *, rows: int, columns: int) -> int:
    # The captions take a column more, and the titles less than a row.
    room = min(_LIMIT // (columns + 1), (_LIMIT - _head(_LARGE_FONT)) // rows) - _GAP
    return max(_MIN_CELL, min(_zoomed(side), room))


def _fitted(picture: Image.Image, cell: int) -> Image.Image:
    if picture.width > cell:
        return picture.resize((cell, cell), Image.Resampling.LANCZOS)
    side = picture.width * (cell // picture.width)
    return picture.resize((side, side), Image.Resampling.NEAREST)
