"""Which paths and names there are, and which are refused.

A path is text of segments between slashes; one slash in front and one behind are ignored, and ""
is the root. Names are kept in Unicode's composed form (NFC), so that an "é" typed on macOS is the
one typed on Linux. What cannot be seen, turns text around or climbs out of a folder is refused
where it comes in: a name goes on to shells, browsers and other people's disks. Percent-decoding
is the doors' work.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

from fabstir.primitives.errors import PathRefused
from fabstir.s5.formats.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH

Segments = tuple[str, ...]
"""A checked path; () is the root."""

_REFUSED_CATEGORIES: Final = {
    "Cc": "a control character",
    "Cf": "an invisible or text-turning character",
    "Cs": "half a surrogate pair",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
"""Unicode's general categories. Cf holds every bidi control, the zero-width characters, the soft
hyphen and the tags."""

_TAB: Final = "\t"
"""The control character that names of others may have, so that their files can be read."""

_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What turns text around: a name with one of them passes for another one, whoever wrote it."""

_BLANKS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks that show nothing, though their category does not say so."""

_NUM_SHOWN: Final = 10
"""Refused names that one error tells of."""

_SHOWN_CHARS: Final = 60
"""Characters of a refused name that an error repeats."""


def parse_path(path: str, *, is_new: bool = True) -> Segments:
    """Check a path and take it apart.

    Args:
        is_new: whether names are given here. Those that others gave may be read, and deleted, with
            invisible characters in them.

    Raises:
        PathRefused: it is too long or too deep, or one of its names is not allowed.
    """
    if len(path) > MAX_PATH_BYTES:
        raise PathRefused(f"a path has at most {MAX_PATH_BYTES} bytes, not {len(path)} characters")
    trimmed = path.removeprefix("/").removesuffix("/")
    if not trimmed:
        if len(path) > 1:
            raise PathRefused(f"{shown(path)} has an empty name between two slashes")
        return ()
    segments = tuple(check_name(name, is_new=is_new) for name in trimmed.split("/"))
    if len(segments) > MAX_PATH_DEPTH:
        raise PathRefused(f"a path has at most {MAX_PATH_DEPTH} names, not {len(segments)}")
    num_bytes = len(format_path(segments).encode())
    if num_bytes > MAX_PATH_BYTES:
        raise PathRefused(f"a path has at most {MAX_PATH_BYTES} bytes of UTF-8, not {num_bytes}")
    return segments


def check_name(name: str, *, is_new: bool = True) -> str:
    """The name in its composed form.

    Args:
        is_new: as of `parse_path`.

    Raises:
        PathRefused: it is empty, too long, "." or "..", or holds a character that is not allowed.
    """
    if not name:
        raise PathRefused("a name between two slashes is empty")
    if name in {".", ".."}:
        raise PathRefused(f"{shown(name)} is no name: paths are written out in full")
    for char in name if not name.isascii() or not name.isprintable() else "":
        reason = _problem(char)
        if reason is not None and (is_new or not _is_harmless(char)):
            raise PathRefused(f"the name {shown(name)} holds U+{ord(char):04X}, {reason}")
    if "/" in name:
        raise PathRefused(f"the name {shown(name)} holds a slash")
    composed = unicodedata.normalize("NFC", name)
    num_bytes = len(composed.encode())
    if num_bytes > MAX_NAME_BYTES:
        raise PathRefused(
            f"a name has at most {MAX_NAME_BYTES} bytes of UTF-8, and {shown(name)} {num_bytes}"
        )
    return composed


def _problem(char: str) -> str | None:
    if char in _BLANKS:
        return "a character that shows nothing"
    if "\udc80" <= char <= "\udcff":  # as Python writes what a file's name has of no text
        return "for a byte that is no UTF-8"
    return _REFUSED_CATEGORIES.get(unicodedata.category(char))


def _is_harmless(char: str) -> bool:
    """Whether a name of somebody else may have it: it shows nothing, and changes nothing."""
    if char in _BLANKS or char == _TAB:
        return True
    return unicodedata.category(char) == "Cf" and char not in _BIDI


def refuse_names(paths: Iterable[str]) -> None:
    """See that every path may be stored under.

    Raises:
        PathRefused: it names the first ones that may not, each with its reason, and says how many.
    """
    refused: list[str] = []
    for path in paths:
        try:
            parse_path(path)
        except PathRefused as error:
            refused.append(f"{shown(path)}: {error}")
    if refused:
        more = len(refused) - _NUM_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        raise PathRefused(f"{'; '.join(refused[:_NUM_SHOWN])}{rest}: nothing was stored")


def refuse_twins(paths: Iterable[str]) -> None:
    """See that no two files or folders of a machine have one name here.

    Linux and Windows keep an "é" of one character and one of two apart; here they are the same, and
    the second would take the place of the first.

    Raises:
        PathRefused: it names both.
    """
    known: dict[str, str] = {}
    for path in paths:
        end = 0
        while end != -1:
            end = path.find("/", end + 1)
            part = path if end == -1 else path[:end]
            twin = known.setdefault(unicodedata.normalize("NFC", part), part)
            if twin != part:
                raise PathRefused(
                    f"{shown(twin)} and {shown(part)} are one name here, in two spellings: give "
                    "one of them another name; nothing was stored"
                )


def is_name(name: str) -> bool:
    """Whether a name that somebody else wrote can be read here."""
    try:
        check_name(name, is_new=False)
    except PathRefused:
        return False
    return True


def look_of(name: str) -> str:
    """What a name looks like: two that look alike are the same here.

    Unicode's compatibility form (NFKC), without the selectors that choose between two drawings of
    one character. Letters of different scripts that are drawn alike stay different.
    """
    if name.isascii():
        return name
    visible = "".join(char for char in name if not _is_variation_selector(char))
    return unicodedata.normalize("NFKC", visible)


def other_spellings(name: str) -> Segments:
    """Forms of a composed name under which writers without our rules may have stored it."""
    decomposed = unicodedata.normalize("NFD", name)
    return () if decomposed == name else (decomposed,)


def format_path(segments: Segments) -> str:
    """The text of a path, without slashes around it."""
    return "/".join(segments)


def shown(text: str) -> str:
    """For errors and logs: ASCII, shortened."""
    return ascii(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")


def _is_variation_selector(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
