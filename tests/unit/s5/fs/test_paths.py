"""Which paths there are."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.errors import PathRefused
from fabstir.s5.formats.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH
from fabstir.s5.fs.paths import (
    check_name,
    format_path,
    is_name,
    look_of,
    other_spellings,
    parse_path,
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(is_name)


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("", ()),
        ("/", ()),
        ("a", ("a",)),
        ("/home/a b.txt/", ("home", "a b.txt")),
        ("e\u0301", ("\u00e9",)),
        ("...", ("...",)),
        ("\U0001f600/\u65e5\u672c", ("\U0001f600", "\u65e5\u672c")),
    ],
)
def test_paths(path: str, segments: tuple[str, ...]) -> None:
    assert parse_path(path) == segments


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("//", "empty"),
        ("a//b", "empty"),
        ("a/../b", "no name"),
        ("./a", "no name"),
        ("a/..", "no name"),
        ("a\0b", "U\\+0000"),
        ("a\nb", "U\\+000A"),
        ("\x7f", "U\\+007F"),
        ("\u202egnp.exe", "U\\+202E"),
        ("a\u200bb", "U\\+200B"),
        ("a\u2066b", "U\\+2066"),
        ("\ufeffa", "U\\+FEFF"),
        ("a\u00adb", "U\\+00AD"),
        ("a\u3164b", "U\\+3164"),
        ("a\u2028b", "U\\+2028"),
        ("\ud800", "U\\+D800"),
        ("n" * (MAX_NAME_BYTES + 1), "1024"),
        ("\u20ac" * 342, "1024"),
        ("/".join(["x" * 63] * 65), "at most"),
        ("/".join(["x"] * (MAX_PATH_DEPTH + 1)), "64 names"),
        ("x" * (MAX_PATH_BYTES + 1), "4096"),
        ("/".join(["\u20ac" * 300] * 5), "4096"),
    ],
)
def test_refused_paths(path: str, reason: str) -> None:
    with pytest.raises(PathRefused, match=reason):
        parse_path(path)


def test_limits_are_reached() -> None:
    assert len(check_name("n" * MAX_NAME_BYTES)) == MAX_NAME_BYTES
    assert len(parse_path("/".join(["x"] * MAX_PATH_DEPTH))) == MAX_PATH_DEPTH


@given(st.text(max_size=60))
def test_any_text_is_a_path_or_refused(path: str) -> None:
    try:
        segments = parse_path(path)
    except PathRefused:
        return
    assert parse_path(format_path(segments)) == segments
    assert all(unicodedata.is_normalized("NFC", name) for name in segments)
    assert not {"", ".", ".."} & set(segments)


@given(names)
def test_names_are_stable(name: str) -> None:
    composed = check_name(name, is_new=False)

    assert check_name(composed, is_new=False) == composed
    for spelling in other_spellings(composed):
        assert unicodedata.normalize("NFC", spelling) == composed
        assert look_of(spelling) == look_of(composed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\ufb01le", "file"),
        ("\uff21", "A"),
        ("a\u00a0b", "a b"),
        ("x\u00b2", "x2"),
        ("\u2764\ufe0f", "\u2764"),
    ],
)
def test_look_alikes(one: str, other: str) -> None:
    assert check_name(one) != check_name(other)
    assert look_of(one) == look_of(other)
