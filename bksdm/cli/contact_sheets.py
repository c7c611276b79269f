"""Pages of pictures of `bksdm generate`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bksdm.evaluation.album import Album
from bksdm.evaluation.grid import grid, rows_of_a_page
from bksdm.evaluation.prompts import Prompt

_IN_A_ROW: Final = 8  # pictures of one model

# A row: its caption, its small print, and each column's album and picture.
Row = tuple[str, str, Sequence[tuple[Album, Prompt] | None]]


def write_sheets(
    albums: Mapping[str, Album],
    pictures: Sequence[Prompt],
    *,
    seeds: range,
    side_by_side: bool,
    out: Path,
) -> list[Path]:
    """Draw grid.png, or grid-01.png and so on where one page is not enough.

    Args:
        albums: where the pictures are, by the models' short names.
        pictures: of each prompt one a seed, in this order.
        seeds: of each prompt's pictures.
        side_by_side: a column a model, instead of a column a seed.
        out: folder of the grids.
    """
    titles, rows = (
        _by_model(albums, pictures) if side_by_side else _by_seed(albums, pictures, seeds)
    )
    side = max(album.read(pictures[0]).shape[-1] for album in albums.values())
    length = rows_of_a_page(side)
    pages = [rows[start : start + length] for start in range(0, len(rows), length)]
    names = (
        ["grid.png"] if len(pages) == 1 else [f"grid-{i:02d}.png" for i in range(1, len(pages) + 1)]
    )
    for name, page in zip(names, pages, strict=True):
        columns = {
            title: [
                cell[0].read(cell[1]) if (cell := cells[i]) is not None else None
                for _, _, cells in page
            ]
            for i, title in enumerate(titles)
        }
        grid(columns, [row[0] for row in page], [row[1] for row in page]).save(out / name)
    return [out / name for name in names]


def _by_model(
    albums: Mapping[str, Album], pictures: Sequence[Prompt]
) -> tuple[list[str], list[Row]]:
    rows: list[Row] = [
        (picture.text, picture.id, [(album, picture) for album in albums.values()])
        for picture in pictures
    ]
    return list(albums), rows


def _by_seed(
    albums: Mapping[str, Album], pictures: Sequence[Prompt], seeds: range
) -> tuple[list[str], list[Row]]:
    (album,) = albums.values()
    width = min(len(seeds), _IN_A_ROW)
    rows: list[Row] = []
    for start in range(0, len(pictures), len(seeds)):
        own = pictures[start : start + len(seeds)]
        for first in range(0, len(own), width):
            some = own[first : first + width]
            cells = [(album, picture) for picture in some] + [None] * (width - len(some))
            note = some[0].id if len(some) == 1 else f"{some[0].id} to {some[-1].id.split('-')[-1]}"
            rows.append((some[0].text, note, cells))
    titles = [f"seed {seed}" if width == len(seeds) else f"+{i}" for i, seed in enumerate(seeds)]
    return titles[:width], rows
