"""Numbers as people read them."""

import pytest

from bksdm.evaluation.page.numbers import (
    DASH,
    THIN,
    decimals,
    fixed,
    percent,
    short,
    signed,
    significant,
    whole,
)

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_no_number_is_a_dash(value: float | None) -> None:
    assert {fixed(value, 2), significant(value), percent(value), short(value), whole(value)} == {
        DASH
    }


def test_digits_are_few() -> None:
    assert significant(16.981) == "17.0"
    assert significant(0.26771, 4) == "0.2677"
    assert significant(12345.6) == "12,346"
    assert fixed(-0.25, 2) == f"{MINUS}0.25"
    assert signed(0.25, 1) == "+0.2"
    assert percent(0.5612) == f"56.1{THIN}%"
    assert percent(1.0) == f"100.0{THIN}%"
    assert significant(0.0) == "0.00"


def test_counts_take_a_letter() -> None:
    assert short(859_520_964) == f"859.5{THIN}M"
    assert short(401_600_000_000) == f"401.6{THIN}G"
    assert short(4_900_000_000, "B", digits=2) == f"4.9{THIN}GB"
    assert whole(859_520_964) == "859,520,964"


def test_a_wide_interval_leaves_few_decimals() -> None:
    assert decimals(0.61234) == 4
    assert decimals(0.61234, width=0.085) == 3
    assert decimals(61.234, width=22) == 0
