"""The order in which S5.js writes names: JavaScript's localeCompare, that is CLDR's root collation.

Readers do not care; only bytes that shall equal those of S5.js do. Exact for ASCII and for letters
with the accents below (tests compare it with a JavaScript engine); other characters follow by code
point of their lower case, which is CLDR's order within most scripts but not everywhere.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_BEFORE_LETTERS: Final = "\t\n\v\f\r _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789"
"""White space, punctuation, symbols, digits, in this order, and before every letter."""

_ACCENTS: Final = "\u0301\u0300\u0306\u0302\u030c\u030a\u0308\u030b\u0303\u0307\u0327\u0328\u0304"
"""Acute, grave, breve, circumflex, caron, ring, diaeresis, double acute, tilde, dot, cedilla,
ogonek, macron: how letters that differ only in these follow each other."""

_PRIMARY: Final = {letter: index for index, letter in enumerate(_BEFORE_LETTERS)}
_SECONDARY: Final = {accent: index + 1 for index, accent in enumerate(_ACCENTS)}


def locale_key(name: str) -> tuple[list[int], list[int], list[bool]]:
    """A sorting key: letters first, then accents, then case, lower before upper."""
    primary: list[int] = []
    secondary: list[int] = []
    tertiary: list[bool] = []
    for letter in unicodedata.normalize("NFD", name):
        if unicodedata.combining(letter):
            secondary.append(_SECONDARY.get(letter, ord(letter)))
        elif letter in _PRIMARY or unicodedata.category(letter) != "Cc":
            lower = letter.lower()
            primary.append(_PRIMARY.get(letter, len(_PRIMARY) + ord(lower[0])))
            secondary.append(0)
            tertiary.append(lower != letter)
    return primary, secondary, tertiary
