"""Range, If-Range and entity tags, against a plain reading of RFC 9110."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.s5.door.ranges import (
    MAX_ETAGS,
    ByteRange,
    Unsatisfiable,
    allows_range,
    parse_condition,
    parse_range,
)

sizes = st.integers(0, 1 << 60)


@given(st.text(), sizes)
def test_whatever_the_header_the_answer_lies_in_the_blob(header: str, size: int) -> None:
    part = parse_range(header, size)

    if isinstance(part, ByteRange):
        assert 0 <= part.start < part.end <= size


@given(sizes, st.integers(0, 1 << 200), st.integers(0, 1 << 200))
def test_first_and_last_byte(size: int, first: int, last: int) -> None:
    part = parse_range(f"bytes={first}-{last}", size)

    if last < first:
        assert part is None
    elif first >= size:
        assert part is Unsatisfiable.UNSATISFIABLE
    else:
        assert part == ByteRange(first, min(last + 1, size))


@given(sizes, st.integers(0, 1 << 200))
def test_open_and_suffix_ranges(size: int, number: int) -> None:
    from_there = parse_range(f"bytes={number}-", size)
    suffix = parse_range(f"bytes=-{number}", size)

    is_inside = number < size
    assert from_there == (ByteRange(number, size) if is_inside else Unsatisfiable.UNSATISFIABLE)
    length = min(number, size)
    assert suffix == (ByteRange(size - length, size) if length else Unsatisfiable.UNSATISFIABLE)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=--1",
        "bytes=1-0",
        "bytes=0-1,3-4",
        "bytes=0-1;3",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=1_0-20",
        "bytes=٠-٣",
        "items=0-1",
        "bytes=0-1 2",
        f"bytes=0-{'9' * 5000}",
    ],
)
def test_what_cannot_be_understood_is_ignored(header: str | None) -> None:
    assert parse_range(header, 100) is None


def test_content_range() -> None:
    assert ByteRange(2, 5).content_range(10) == "bytes 2-4/10"


@given(st.text())
def test_any_condition_is_read(header: str) -> None:
    condition = parse_condition(header)

    assert condition is not None
    assert len(condition.tags) <= MAX_ETAGS


@given(
    st.lists(st.tuples(st.text("abc,/* ", max_size=5).map(str.strip), st.booleans()), max_size=9)
)
def test_a_list_of_tags(tags: list[tuple[str, bool]]) -> None:
    tags = [(tag.replace(" ", ""), is_weak) for tag, is_weak in tags]
    header = ", ".join(("W/" if is_weak else "") + f'"{tag}"' for tag, is_weak in tags)

    condition = parse_condition(header)

    assert condition is not None
    assert condition.tags == tuple(tags)
    assert condition.is_any is False


def test_strong_and_weak() -> None:
    condition = parse_condition('"a", W/"b"')

    assert condition is not None
    assert condition.names(lambda tag: tag == "a", is_strong=True)
    assert not condition.names(lambda tag: tag == "b", is_strong=True)
    assert condition.names(lambda tag: tag == "b", is_strong=False)
    assert not condition.names(lambda tag: tag == "c", is_strong=False)


def test_any() -> None:
    condition = parse_condition(" * ")

    assert condition is not None
    assert condition.names(lambda _tag: False, is_strong=True)
    assert parse_condition(None) is None


@pytest.mark.parametrize(
    ("if_range", "is_allowed"),
    [
        (None, True),
        ('"a"', True),
        ('"b"', False),
        ('W/"a"', False),
        ('"a", "a"', False),
        ("*", False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", False),
    ],
)
def test_if_range(if_range: str | None, *, is_allowed: bool) -> None:
    assert allows_range(if_range, lambda tag: tag == "a") is is_allowed
