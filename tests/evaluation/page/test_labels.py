"""Names that do not cover each other."""

from itertools import combinations, pairwise

from bksdm.evaluation.page.labels import HEIGHT, Box, Name, beside, fitting, spread

FRAME = Box(0, 0, 300, 200)


def test_names_of_near_points_do_not_overlap() -> None:
    points = [(100.0, 100.0), (104.0, 101.0), (110.0, 95.0), (290.0, 100.0)]
    boxes = beside([Name(x, y, 50, needed=True) for x, y in points], within=FRAME)
    found = [box for box in boxes if box is not None]
    assert len(found) == 4
    assert all(a.overlap(b) == 0 for a, b in combinations(found, 2))
    assert found[-1].left < 240  # not over the edge


def test_names_that_find_no_place_are_left_out_unless_needed() -> None:
    crowd = [Name(100, 100, 80, needed=i == 0) for i in range(20)]
    boxes = beside(crowd, within=FRAME)
    assert boxes[0] is not None
    assert None in boxes


def test_names_keep_off_bars() -> None:
    bars = [Box(x - 1, 40, 2, 120) for x in (100, 130)]
    boxes = beside([Name(x, 100, 60, needed=True) for x in (100, 130)], within=FRAME, bars=bars)
    assert all(box.overlap(bar) == 0 for box in boxes for bar in bars if box)


def test_names_of_lines_keep_their_order_and_a_line_between() -> None:
    heights = spread([50, 51, 49, 120], low=0, high=130)
    assert heights[2] < heights[0] < heights[1] < heights[3]
    ordered = sorted(heights)
    assert all(b - a >= HEIGHT for a, b in pairwise(ordered))
    assert max(spread([128, 129, 130], low=0, high=130)) <= 130


def test_long_names_are_cut() -> None:
    assert fitting("small", 100) == "small"
    assert fitting("a-very-long-name-of-a-run", 60) == "a-very-l\N{HORIZONTAL ELLIPSIS}"
