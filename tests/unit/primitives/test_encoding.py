"""Canonical encodings: each value has one form, and only that form is read."""

import json
import math
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import texts

from fabstir.primitives.encoding import (
    MAX_MULTIBASE_CHARS,
    Json,
    canonical_json,
    decode_base58,
    decode_multibase,
    encode_base58,
    encode_multibase,
    parse_json,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts(8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(4), inner, max_size=3),
    max_leaves=8,
)
bases = st.sampled_from("fbzu")


def test_canonical_json_known_form() -> None:
    value: Json = {"b": [1, True, None], "a": 'é\n"\\', "Z": {}}

    encoded = canonical_json(value)

    assert encoded == '{"Z":{},"a":"é\\n\\"\\\\","b":[1,true,null]}'.encode()


@given(json_values)
def test_canonical_json_has_one_form(value: Json) -> None:
    encoded = canonical_json(value)

    assert json.loads(encoded) == value
    assert canonical_json(json.loads(encoded)) == encoded


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "\ud800"])
def test_canonical_json_refuses_what_json_cannot_carry(value: Json) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        canonical_json(value)


@given(json_values)
def test_json_of_others_is_read_as_the_library_reads_it(value: Json) -> None:
    text = json.dumps(value)

    assert parse_json(text, max_depth=32) == value
    assert parse_json(text.encode(), max_depth=32) == value


@pytest.mark.parametrize("limit", [1, 2, 32])
@pytest.mark.parametrize(("left", "right"), ["[]", ('{"a":', "}"), ('[{"}":[', "]}]")])
def test_nesting_is_bounded(limit: int, left: str, right: str) -> None:
    levels = sum(left.count(bracket) for bracket in "[{")
    times = limit // levels
    nested = left * times + "1" + right * times

    if times:
        assert parse_json(nested, max_depth=limit) == json.loads(nested)
    with pytest.raises(ValueError, match="levels deep"):
        parse_json(left * (times + 1) + "1" + right * (times + 1), max_depth=limit)


@given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', "\\", "a", ",", "1"]), max_size=40))
def test_brackets_in_strings_do_not_count(pieces: list[str]) -> None:
    value = ["".join(pieces)] * 3
    text = json.dumps([[value]])

    assert parse_json(text, max_depth=3) == [[value]]


@pytest.mark.parametrize("limit", [1000, 100_000])
@pytest.mark.parametrize("bracket", ["[", '{"x":', '[{"x":[', '[[["]]]', '"[', '["\\'])
def test_deep_json_is_refused_whatever_the_recursion_limit_is(bracket: str, limit: int) -> None:
    """py_ecc, below eth-account, sets 100,000: each of these was a segmentation fault then."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        with pytest.raises(ValueError):  # noqa: PT011 - too deep, or not JSON
            parse_json(bracket * 200_000, max_depth=32)
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("text", ["", "NaN", "[Infinity]", "-Infinity", "{'a':1}", "[1,]", "1 2"])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the parser says
        parse_json(text, max_depth=32)


@pytest.mark.parametrize("codec", ["utf-16", "utf-32", "utf-8-sig"])
def test_json_is_utf_8(codec: str) -> None:
    with pytest.raises(ValueError, match=r"utf-8|BOM"):
        parse_json('{"a":"é"}'.encode(codec), max_depth=32)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\0\0", "11"),
        (b"Hello World!", "2NEpo7TZRRrLZSi2U"),
        (bytes.fromhex("0000287fb4cd"), "11233QC4"),
    ],
)
def test_base58_known_answers(data: bytes, text: str) -> None:
    """From draft-msporny-base58."""
    assert encode_base58(data) == text
    assert decode_base58(text) == data


@given(st.binary(max_size=80))
def test_base58_round_trip(data: bytes) -> None:
    assert decode_base58(encode_base58(data)) == data


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "a b", "ä"])
def test_base58_refuses_foreign_letters(text: str) -> None:
    with pytest.raises(ValueError, match="base 58"):
        decode_base58(text)


@given(st.binary(max_size=100), bases)
def test_multibase_round_trip(data: bytes, base: str) -> None:
    assert decode_multibase(encode_multibase(data, base)) == data


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("fbzu=AaBb2279"), max_size=24))
def test_multibase_reads_one_text_a_value(text: str) -> None:
    try:
        data = decode_multibase(text)
    except ValueError:
        return

    assert encode_multibase(data, text[0]) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M" + "AAAA",  # an unknown base
        "mW4I-",  # base64url's letters
        "f5B82",  # capitals
        "f5b 82",  # white space, which bytes.fromhex skips
        "f5b8x",
        "blob",  # left-over bits that are not zero
        "bLOBB",
        "bmy======",
        "uW4I!e",  # a foreign letter, which Python's base 64 skips
        "uW4IeX",
        "uW4I=",
        "z0",
    ],
)
def test_multibase_is_strict(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the decoder says
        decode_multibase(text)


@pytest.mark.parametrize("decode", [decode_multibase, decode_base58])
def test_long_identifiers_are_refused_before_any_work(decode: Callable[[str], bytes]) -> None:
    with pytest.raises(ValueError, match="at most"):
        decode("z" * (MAX_MULTIBASE_CHARS + 1))


def test_multibase_refuses_to_encode_an_unknown_base() -> None:
    with pytest.raises(ValueError, match="multibase prefixes"):
        encode_multibase(b"", "q")


def test_an_integer_that_python_does_not_read_is_refused_in_our_own_words() -> None:
    with pytest.raises(ValueError, match=r"^an integer has more digits"):
        parse_json('{"a":' + "1" * 5000 + "}", max_depth=32)
