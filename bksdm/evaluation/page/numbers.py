"""Numbers as people read them: a few digits, thousands apart, a dash for what is not there."""

import math
from collections.abc import Iterable
from typing import Final

from bksdm.evaluation.score import Better, Score

DASH: Final = "\N{EN DASH}"
_MINUS: Final = "\N{MINUS SIGN}"
DIRECTION: Final = {
    Better.HIGHER: "higher is better",
    Better.LOWER: "lower is better",
    Better.NEITHER: "neither way is better",
}
THIN: Final = "\N{NARROW NO-BREAK SPACE}"
_PREFIXES: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def there(value: float | None) -> bool:
    """Whether it is a number."""
    return value is not None and math.isfinite(value)


def shown(score: Score | None) -> float:
    """What to multiply a score by before it is shown: shares are percentages."""
    return 100.0 if score is not None and score.percent else 1.0


def decimals(value: float, *, width: float | None = None, digits: int = 4) -> int:
    """Decimals for `digits` significant digits, and no more than an interval of `width` bears: two
    digits of its width.
    """
    wanted = digits - 1 - _magnitude(value)
    if width is not None and width > 0:
        wanted = min(wanted, 1 - _magnitude(width))
    return min(max(wanted, 0), 6)


def fixed(value: float | None, places: int) -> str:
    """With that many decimals."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.{places}f}".replace("-", _MINUS)


def significant(value: float | None, digits: int = 3) -> str:
    """With that many significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    return fixed(value, decimals(value, digits=digits))


def signed(value: float, places: int) -> str:
    """With its sign."""
    return ("+" if value > 0 else "") + fixed(value, places)


def percent(share: float | None) -> str:
    """A share of one, as 12.3 %."""
    if share is None or not math.isfinite(share):
        return DASH
    return f"{fixed(100 * share, 1)}{THIN}%"


def prefix(values: Iterable[float]) -> tuple[float, str]:
    """The factor and letter that suit the largest: (1e9, "G")."""
    largest = max((abs(value) for value in values), default=0.0)
    return next(((factor, name) for factor, name in _PREFIXES if largest >= factor), (1.0, ""))


def short(value: float | None, unit: str = "", *, digits: int = 4) -> str:
    """859,520,964 as 859.5 M."""
    if value is None or not math.isfinite(value):
        return DASH
    factor, letter = prefix([value])
    name = f"{letter}{unit}"
    return significant(value / factor, digits) + (f"{THIN}{name}" if name else "")


def whole(value: float | None) -> str:
    """All digits of a count."""
    return DASH if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0
