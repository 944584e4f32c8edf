"""Bounded memory, and cursors that come back from strangers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.errors import PathRefused
from fabstir.s5.fs.cache import Cache
from fabstir.s5.fs.cursors import decode_cursor, encode_cursor


def test_the_least_recently_used_values_make_room() -> None:
    cache = Cache[str, int](max_bytes=10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    assert cache.get("a") == 1
    cache.put("c", 3, 4)

    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert cache.num_bytes == 8
    cache.put("a", 9, 6)
    assert (cache.get("a"), len(cache)) == (9, 2)


def test_a_value_that_is_too_large_is_not_kept() -> None:
    cache = Cache[str, int](max_bytes=10)
    cache.put("a", 1, 11)

    assert (cache.get("a"), cache.num_bytes) == (None, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7)), max_size=50))
def test_the_bound_holds(puts: list[tuple[int, int]]) -> None:
    cache = Cache[int, int](max_bytes=12)
    for key, weight in puts:
        cache.put(key, key, weight)
        assert cache.num_bytes <= 12


@given(st.text(st.characters(codec="utf-8"), max_size=200), st.booleans())
def test_a_cursor_leads_to_its_key(name: str, is_sharded: bool) -> None:
    key = f"f:{name}"

    assert decode_cursor(encode_cursor(key, is_sharded=is_sharded), is_sharded=is_sharded) == key


@given(st.text(max_size=40), st.booleans())
def test_any_text_is_a_cursor_or_refused(text: str, is_sharded: bool) -> None:
    try:
        key = decode_cursor(text, is_sharded=is_sharded)
    except PathRefused:
        return
    assert key[:2] in {"f:", "d:"}


def test_a_cursor_of_another_order_is_refused() -> None:
    with pytest.raises(PathRefused, match="from the beginning"):
        decode_cursor(encode_cursor("f:a", is_sharded=False), is_sharded=True)
