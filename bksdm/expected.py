"""Settings that are not what they can be, told in one way."""

from typing import Any

from bksdm.errors import InputError


def number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse what is no number, or one out of bounds.

    Raises:
        InputError: names the setting, its value and what was expected.
    """
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not (
        fits
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    ):
        raise InputError(f"{name}={value}: expected a number, {' and '.join(words)}")


def count(name: str, value: Any, *, least: int) -> None:
    """Refuse what is no whole number, or a smaller one.

    Raises:
        InputError: names the setting, its value and what was expected.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}={value}: expected a whole number, at least {least}")


def switch(name: str, value: Any) -> None:
    """Refuse what is neither true nor false.

    Raises:
        InputError: names the setting and its value.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name}={value}: expected true or false")


def one_of(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    """Refuse what is none of these.

    Raises:
        InputError: names the setting, its value and what it could be.
    """
    if value not in allowed:
        words = ", ".join("null" if each is None else each for each in allowed)
        raise InputError(f"{name}={value}: expected one of {words}")
