"""What is shown of text that somebody else wrote: hosts, peers, portals, file names, libraries.

A terminal obeys some characters instead of showing them: escape sequences move its cursor, set its
title and answer for the user; a carriage return overwrites what stands there; bidirectional
controls reorder a line so that an address reads as another one. Nothing here drops a character:
what must not reach a terminal is written out (`\\x1b`, `\\u202e`), one character at a time, so an
escape sequence that is split over two pieces of an answer is as harmless as a whole one.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Final

MAX_LINE_CHARS: Final = 8192
"""Longest text that is shown on one line: as long as a host's error may be, a hundred lines of a
terminal. Longer ones push everything else off the screen."""

_NAMED: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_JOINERS: Final = frozenset("\u200c\u200d")
"""Zero-width (non-)joiner: emoji and the scripts of Iran and India are spelled with them."""

_VISIBLE_FORMATS: Final = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
"""Number signs and the like: of category Cf, and drawn all the same (Prepended_Concatenation)."""

_BLANK_LETTERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks that are drawn as nothing: a name made of them looks like no name."""

_CACHED: Final = 4096
"""Characters whose form is remembered: those of one conversation."""


def _is_emoji_to_come(char: str) -> bool:
    """Whether a later Unicode than Python's may have an emoji here."""
    return 0x1F000 <= ord(char) <= 0x1FBFF


def _is_harmless(char: str) -> bool:
    """Whether a terminal shows the character, and somebody sees it there."""
    if char.isprintable():
        return char not in _BLANK_LETTERS
    match unicodedata.category(char):
        case "Zs":
            return True
        case "Cf":
            return char in _VISIBLE_FORMATS
        case "Cn":
            return _is_emoji_to_come(char)
        case _:
            return False


def _written_out(char: str) -> str:
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@lru_cache(_CACHED)
def _in_line(char: str) -> str:
    return char if _is_harmless(char) else _written_out(char)


@lru_cache(_CACHED)
def _in_lines(char: str) -> str:
    return char if char in "\n\t" or char in _JOINERS else _in_line(char)


@lru_cache(_CACHED)
def _in_json(char: str) -> str:
    if char == "\n" or char in _JOINERS or _is_harmless(char):
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def one_line(text: str, limit: int | None = MAX_LINE_CHARS) -> str:
    """Text as one line that no terminal obeys: names, URLs, reasons, codes, errors.

    Line ends are written out too, and joiners where they join nothing but ASCII.

    Args:
        limit: longer texts are cut, and it is said how much is missing; None: none is cut.
    """
    if limit is not None and len(text) > limit:
        return f"{one_line(text[:limit], None)}... ({len(text) - limit} more characters)"
    if text.isascii() and text.isprintable():
        return text
    shown = [_in_line(char) for char in text]
    for index, char in enumerate(text):
        if char in _JOINERS and index and not text[index - 1].isascii():
            shown[index] = char
    return "".join(shown)


def many_lines(text: str) -> str:
    """Text of several lines that no terminal obeys: answers, conversations, tracebacks.

    Line ends, tabs and joiners stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_in_lines, text.replace("\r\n", "\n")))


def plain_json(
    value: object,
    *,
    default: Callable[[object], object] | None = None,
    indent: int | None = None,
) -> str:
    """JSON that can be shown: what `one_line` writes out is a `\\uXXXX` in it.

    Other texts stay readable, and a parser reads the same value, lone surrogates included.

    Args:
        default: as of `json.dumps`.
    """
    text = json.dumps(value, default=default, indent=indent, ensure_ascii=False)
    # Everything but white space that needs it stands inside a string.
    return text if text.isascii() and "\x7f" not in text else "".join(map(_in_json, text))
