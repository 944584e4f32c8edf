"""Text in files that people edit, as the editors of all systems save it."""

from __future__ import annotations

import codecs
from typing import Final

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte-order marks. Windows' editors write the first one, its PowerShell's `>` the second."""


def decode_edited(data: bytes) -> tuple[str, str]:
    """The text of a file, without its byte-order mark.

    Returns:
        The text, and the codec with which it is written again in the same form.

    Raises:
        UnicodeDecodeError: it has no mark and is not UTF-8, or not what its mark says.
    """
    codec = next((codec for mark, codec in _MARKS if data.startswith(mark)), "utf-8")
    return data.decode(codec), codec


def without_mark(text: str) -> str:
    """Text that was pasted or piped in, where a mark has become a character."""
    return text.removeprefix("\ufeff")
