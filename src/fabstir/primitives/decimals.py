"""Fractions as decimal text with one spelling a value, because languages print floats differently.

A value is a whole number of millionths. Python keeps it as the float nearest to it, which for the
magnitudes that this package knows names exactly one such number.
"""

from __future__ import annotations

import re
from typing import Final

MAX_MAGNITUDE: Final = 1_000_000
"""Largest value: with six decimals that are 12 digits, and a float holds 15."""

_DECIMAL = re.compile(r"-?[0-9]{1,7}(?:\.[0-9]{1,6})?")


def round_decimal(value: float) -> float:
    """The nearest value that has a spelling; never a negative zero.

    Raises:
        ValueError: not finite, or beyond MAX_MAGNITUDE.
    """
    if not -MAX_MAGNITUDE <= value <= MAX_MAGNITUDE:
        raise ValueError(f"{value} is no number from -{MAX_MAGNITUDE} to {MAX_MAGNITUDE}")
    return round(float(value), 6) + 0.0


def decimal_text(value: float) -> str:
    """The spelling: `0`, `0.7`, `-100`, `0.000001`. Raises ValueError as `round_decimal` does."""
    text = f"{round_decimal(value):.6f}".rstrip("0")
    return text.removesuffix(".")


def parse_decimal(text: str) -> float:
    """A value from any plain spelling of it (`0.70`, `007`); not with an exponent.

    Raises:
        ValueError: it is none, has more than six decimals, or is beyond MAX_MAGNITUDE.
    """
    if not _DECIMAL.fullmatch(text):
        raise ValueError("not a decimal number with at most six decimals")
    return round_decimal(float(text))
