"""CBOR as S5 reads and writes it: against RFC 8949, against cbor2, and against hostile bytes."""

import math
import tracemalloc
from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies_s5 import cbor_values

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.cbor import (
    BigInt,
    PlainObject,
    decode_cbor,
    encode_canonical,
    encode_s5js,
)
from fabstir.s5.formats.directory import Cbor
from fabstir.s5.formats.limits import MAX_CBOR_DEPTH

MAX_BYTES = 1 << 20


def decode(data: bytes) -> Cbor:
    return decode_cbor(data, max_bytes=MAX_BYTES)


@given(cbor_values)
def test_what_is_written_is_read(value: Cbor) -> None:
    assert decode(encode_canonical(value)) == value
    assert decode(encode_s5js(value)) == value


@given(cbor_values)
def test_cbor2_reads_both_writers(value: Cbor) -> None:
    # By their bytes: cbor2 makes frozen maps of maps within keys.
    assert encode_canonical(cbor2.loads(encode_canonical(value))) == encode_canonical(value)
    assert encode_canonical(cbor2.loads(encode_s5js(value))) == encode_canonical(value)


@given(cbor_values)
def test_the_canonical_form_is_cbor2s(value: Cbor) -> None:
    """cbor2 sorts as RFC 7049 did, shorter keys first, and keeps floats: so not for those."""
    if _is_plain(value):
        assert encode_canonical(value) == cbor2.dumps(value, canonical=True)


def _is_plain(value: Cbor) -> bool:
    if isinstance(value, dict):
        is_text = all(isinstance(key, str) for key in value)
        return is_text and all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return not isinstance(value, float)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        # RFC 8949, appendix A.
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (1000000000000, "1b000000e8d4a51000"),
        (18446744073709551615, "1bffffffffffffffff"),
        (-1, "20"),
        (-1000, "3903e7"),
        (-18446744073709551616, "3bffffffffffffffff"),
        (1.5, "f93e00"),
        (1.1, "fb3ff199999999999a"),
        (5.960464477539063e-8, "f90001"),
        (3.4028234663852886e38, "fa7f7fffff"),
        (1.0e300, "fb7e37e43c8800759c"),
        (math.inf, "f97c00"),
        (math.nan, "f97e00"),
        (False, "f4"),
        (True, "f5"),
        (None, "f6"),
        (b"\1\2\3\4", "4401020304"),
        ("ü", "62c3bc"),
        ([1, [2, 3], [4, 5]], "8301820203820405"),
        ((1, 2), "820102"),
        ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
        # Section 4.2.1: the order of the keys' bytes.
        (
            {"aa": 1, "z": 2, b"": 3, 100: 4, -1: 5, 10: 6},
            "a60a06186404200540036" + "17a02626161" + "01",
        ),
        # A float with an integer's value: the integer, as JavaScript writes it.
        (1.0e5, "1a000186a0"),
        (-0.0, "00"),
        (float(1 << 53), "fa5a000000"),
    ],
)
def test_known_answers(value: Cbor, written: str) -> None:
    assert encode_canonical(value).hex() == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"b": 1, "a": 2}, "a26162016161" + "02"),
        (PlainObject({"b": 1, "a": {}}), "b900026162016161a0"),
        ({"o": PlainObject({"i": PlainObject()})}, "a1616fb900016169b90000"),
        ((1 << 32) - 1, "1affffffff"),
        (1 << 32, "fb41f0000000000000"),
        (-(1 << 31), "3a7fffffff"),
        (-(1 << 31) - 1, "fbc1e0000000200000"),
        (1 << 53, "1b0020000000000000"),
        (BigInt(5), "1b0000000000000005"),
        (BigInt(-5), "3b0000000000000004"),
        (5 << 30, "fb41f4000000000000"),
        (BigInt(5 << 30), "1b0000000140000000"),
        (1.5, "fb3ff8000000000000"),
        ([b"\1", "x", None, True, False], "854101" + "6178f6f5f4"),
    ],
)
def test_known_answers_of_s5js(value: Cbor, written: str) -> None:
    assert encode_s5js(value).hex() == written


@pytest.mark.parametrize("value", [1 << 64, -(1 << 64) - 1, BigInt(1 << 64), [BigInt(-1 << 65)]])
def test_numbers_beyond_64_bits_are_not_written(value: Cbor) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        encode_s5js(value)
    with pytest.raises(ValueError, match="64 bits"):
        encode_canonical(value)


def test_an_object_of_s5js_has_16_bits_of_length() -> None:
    longest = PlainObject(dict.fromkeys(range(65_535)))

    assert encode_s5js(longest)[:3].hex() == "b9ffff"
    with pytest.raises(ValueError, match="16 bits"):
        encode_s5js(PlainObject({**longest, 65_535: None}))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "cut off"),
        ("18", "cut off"),
        ("19ff", "cut off"),
        ("43ffff", "cut off"),
        ("5bffffffffffffffff00", "cut off"),
        ("7bffffffffffffffff00", "cut off"),
        ("8201", "cut off"),
        ("9bffffffffffffffff00", "cut off"),
        ("bbffffffffffffffff00", "cut off"),
        ("a101", "cut off"),
        ("fb0000", "cut off"),
        ("0000", "do not belong"),
        ("1c", "indefinite"),
        ("5f4101ff", "indefinite"),
        ("9f01ff", "indefinite"),
        ("bf0101ff", "indefinite"),
        ("c074", "tags"),
        ("c243010000", "tags"),
        ("d81c80", "tags"),
        ("d9010080", "tags"),
        ("ff", "simple"),
        ("e0", "simple"),
        ("f820", "simple"),
        ("fc", "simple"),
        ("61ff", "UTF-8"),
        ("63eda080", "UTF-8"),  # half a surrogate pair
        ("a201010102", "twice"),
        ("a2616101616102", "twice"),
        ("a201011801" + "02", "twice"),  # the same key in a longer form
        ("a1f501", "keys"),
        ("a1f601", "keys"),
        ("a1f93c0001", "keys"),
        ("a1800" + "1", "keys"),
        ("a1a001", "keys"),
    ],
)
def test_other_bytes_are_refused(written: str, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode(bytes.fromhex(written))


def test_undefined_of_javascript_is_none() -> None:
    assert decode(bytes.fromhex("82f7f6")) == [None, None]


def test_longer_forms_are_read() -> None:
    """S5.js writes the length of objects in 16 bits; others may pad numbers."""
    assert decode(bytes.fromhex("b9000161611b0000000000000007")) == {"a": 7}


@pytest.mark.parametrize("head", [b"\x81", b"\xa1\x00", b"\x82\x00"])
def test_nesting_is_bounded(head: bytes) -> None:
    assert decode(head * MAX_CBOR_DEPTH + b"\x00") is not None
    with pytest.raises(RemoteProtocolError, match="nested"):
        decode(head * (MAX_CBOR_DEPTH + 1) + b"\x00")
    with pytest.raises(RemoteProtocolError, match="nested"):
        decode(head * 100_000)


def test_what_is_too_long_is_not_looked_at() -> None:
    with pytest.raises(RemoteProtocolError, match="at most 3 are read"):
        decode_cbor(b"\x83\x01\x02\x03", max_bytes=3)


@pytest.mark.parametrize("item", [b"\x80", b"\xa0", b"\x81\x00", b"\xa1\x00\x00", b"\x60", b"\x20"])
def test_memory_is_bounded_by_the_input(item: bytes) -> None:
    """52 MiB a MiB with cbor2: empty lists of one byte each are 56 bytes of memory."""
    count = (1 << 14) // len(item)
    data = b"\x9a" + count.to_bytes(4, "big") + item * count
    tracemalloc.start()
    with suppress(RemoteProtocolError):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 30 * len(data)


def test_a_length_alone_costs_nothing() -> None:
    tracemalloc.start()
    for head in ("9affffffff", "baffffffff", "5affffffff", "7affffffff"):
        with pytest.raises(RemoteProtocolError):
            decode(bytes.fromhex("8f" + head) * 16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1 << 16


@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_or_one_error(data: bytes) -> None:
    try:
        value = decode(data)
    except RemoteProtocolError:
        return
    assert encode_canonical(decode(encode_canonical(value))) == encode_canonical(value)
