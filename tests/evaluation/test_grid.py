import numpy as np
import pytest
import torch
from PIL import ImageFont

from bksdm.evaluation.captions import font_for, lines
from bksdm.evaluation.grid import grid, rows_of_a_page

RED, BLUE = (255, 0, 0), (0, 0, 255)
LONG = "a very long prompt that never seems to come to an end " * 20


def plain(color: tuple[int, int, int], side: int) -> torch.Tensor:
    return torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(3, side, side)


def area(sheet: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((sheet == color).all(-1).sum())


def test_a_grid_shows_every_picture_enlarged() -> None:
    red, blue = plain(RED, 16), plain(BLUE, 16)
    sheet = np.asarray(grid({"one": [red, red], "two": [blue, blue]}, ["first", "second"]))
    assert area(sheet, RED) == area(sheet, BLUE) == 2 * 128 * 128


def test_small_pictures_keep_their_pixels() -> None:
    picture = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    sheet = np.asarray(grid({"a": [picture]}, ["x"]))
    enlarged = picture.permute(1, 2, 0).numpy().repeat(2, 0).repeat(2, 1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, enlarged.shape)
    assert (windows == enlarged).all((-1, -2, -3)).any()


@pytest.mark.parametrize("side", [16, 64, 512, 768])
def test_a_page_stays_small_enough_to_look_at(side: int) -> None:
    rows = rows_of_a_page(side)
    columns = {f"model {i}": [plain(RED, side)] * rows for i in range(4)}
    sheet = grid(columns, [LONG] * rows, ["note"] * rows)
    assert max(sheet.size) <= 4000
    assert 10 <= rows <= 24


def test_large_pictures_have_their_size_where_there_is_room() -> None:
    sheet = np.asarray(grid({"a": [plain(RED, 512)], "b": [plain(BLUE, 512)]}, ["x"]))
    assert area(sheet, RED) == area(sheet, BLUE) == 512 * 512


def test_pictures_of_different_sizes_share_a_page() -> None:
    sheet = np.asarray(grid({"a": [plain(RED, 512)], "b": [plain(BLUE, 200)]}, ["x"]))
    assert (area(sheet, RED), area(sheet, BLUE)) == (512 * 512, 400 * 400)


def test_an_empty_cell_is_paper() -> None:
    sheet = np.asarray(grid({"a": [plain(RED, 64)], "b": [None]}, ["x"]))
    assert area(sheet, RED) == 128 * 128
    assert area(sheet[-128:, -130:], (255, 255, 255)) == 128 * 130


def test_a_long_caption_stays_in_its_row() -> None:
    one = np.asarray(grid({"a": [plain(RED, 64)] * 2}, [LONG, ""], ["", ""]))
    none = np.asarray(grid({"a": [plain(RED, 64)] * 2}, ["", ""], ["", ""]))
    changed = np.flatnonzero((one != none).any((1, 2)))
    assert 0 < np.ptp(changed) < 128


@pytest.mark.parametrize("text", ["красный круг", "赤い丸" * 40, "\U0001f408", "x" * 500, ""])
def test_every_text_is_written_into_its_width(text: str) -> None:
    font = font_for(text, 14)
    found = lines(text, font, width=200, most=5)
    assert len(found) <= 5
    assert all(font.getlength(line) <= 200 for line in found)
    grid({text: [plain(RED, 16)]}, [text], [text])


def test_what_fits_is_written_whole() -> None:
    font = ImageFont.load_default(14)
    words = ["a", "big", "red", "circle", "on", "a", "white", "background"]
    assert " ".join(lines(" ".join(words), font, width=100, most=9)).split() == words
    assert "".join(lines("x" * 90, font, width=100, most=20)) == "x" * 90
    assert lines(LONG, font, width=100, most=2)[-1].endswith("...")
