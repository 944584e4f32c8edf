"""Reading a peer's JSON: every spelling, both forms of numbers, one type of error."""

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import json_safe, uint256s

from fabstir.primitives.decimals import decimal_text
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import MAX_FRAME_BYTES, MAX_ID_CHARS

json_values: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(json_safe, max_size=8)
    | st.sampled_from(["0x00", "12", "\ud800", "9" * 80]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)

GETTERS: list[Callable[[Fields], object]] = [
    lambda f: f.text("x", limit=4),
    lambda f: f.optional_text("x"),
    lambda f: f.identifier("x"),
    lambda f: f.optional_identifier("x"),
    lambda f: f.integer("x"),
    lambda f: f.optional_integer("x", limit=10),
    lambda f: f.fraction("x", default=1, high=1),
    lambda f: f.decimal("x", low=-1, high=1),
    lambda f: f.optional_flag("x"),
    lambda f: f.flag("x"),
    lambda f: f.hex("x"),
    lambda f: f.hex("x", size=2),
    lambda f: f.point("x"),
    lambda f: f.hash32("x"),
    lambda f: f.address("x"),
    lambda f: f.child("x"),
    lambda f: f.optional_child("x"),
    lambda f: f.items("x", limit=2),
    lambda f: f.children("x", limit=2),
    lambda f: f.texts("x", limit=2, chars=4),
]


def fields(value: Json) -> Fields:
    return Fields({"x": value}, "frame")


@given(json_values)
def test_a_getter_gives_a_value_or_the_one_error(value: Json) -> None:
    for getter in GETTERS:
        for field in (fields(value), Fields({}, "frame")):
            with suppress(RemoteProtocolError):
                getter(field)


def test_the_first_spelling_that_is_there_and_not_null_counts() -> None:
    both = Fields({"job_id": None, "jobId": 5, "job": 6}, "frame")

    assert both.integer("job_id", "jobId", "job") == 5
    assert both.get("job_id") is None


@given(uint256s)
def test_both_forms_of_numbers(number: int) -> None:
    assert fields(number).integer("x") == number
    assert fields(str(number)).integer("x") == number
    assert fields(number).identifier("x") == str(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [("7.0", 7), ("1e3", 1000), ("9007199254740991.0", (1 << 53) - 1), ('"07"', 7)],
)
def test_whole_fractions_are_integers(text: str, number: int) -> None:
    assert Fields.parse(f'{{"x":{text}}}', "frame").integer("x") == number


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        '"-1"',
        "1.5",
        "true",
        '""',
        '" 1"',
        '"0x1"',
        "1e400",
        "9007199254740993.0",
        '"1e3"',
        "[]",
    ],
)
def test_what_is_no_unsigned_integer_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="unsigned integer"):
        Fields.parse(f'{{"x":{text}}}', "frame").integer("x")


@pytest.mark.parametrize("data", ['{"x":1}', b'{"x":1}', ' {"x" : 1.0} '])
def test_objects_are_parsed_from_text_and_bytes(data: str | bytes) -> None:
    assert Fields.parse(data, "frame").integer("x") == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("", "INVALID_PAYLOAD"),
        ("[]", "INVALID_PAYLOAD"),
        ("null", "INVALID_PAYLOAD"),
        ('{"x":NaN}', "INVALID_PAYLOAD"),
        ('{"x":-Infinity}', "INVALID_PAYLOAD"),
        ('{"x":' + "9" * 5000 + "}", "INVALID_PAYLOAD"),
        ("[" * 100_000, "INVALID_PAYLOAD"),
        ('{"x":' * 100_000, "INVALID_PAYLOAD"),
        (b"\xff\xfe", "INVALID_UTF8"),
        ('{"x":1}'.encode("utf-16"), "INVALID_UTF8"),  # which json.loads would take
        ('{"x":1}'.encode("utf-8-sig"), "INVALID_PAYLOAD"),
        ('{"x":"\ud800"}', "INVALID_UTF8"),
    ],
    ids=range(12),
)
def test_other_data_is_refused(data: str | bytes, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Fields.parse(data, "frame")
    assert caught.value.code == code


def test_the_limit_counts_bytes_not_characters() -> None:
    fits = json.dumps({"x": "a" * (MAX_FRAME_BYTES - 8)}, separators=(",", ":"))
    wide = json.dumps({"x": "é" * (MAX_FRAME_BYTES // 2)}, ensure_ascii=False)

    assert len(fits) == MAX_FRAME_BYTES
    assert Fields.parse(fits, "frame").text("x")
    for data in (fits + " ", wide, wide.encode()):
        with pytest.raises(RemoteProtocolError, match="longer than"):
            Fields.parse(data, "frame")


@pytest.mark.parametrize("spelling", ["00ff", "0x00FF", "0X00ff"])
def test_hex_with_and_without_prefix(spelling: str) -> None:
    assert fields(spelling).hex("x", size=2) == b"\x00\xff"


@pytest.mark.parametrize("spelling", ["0", "0xg0", "00 ff", " 00", "0x0x00", "0X0x00"])
def test_what_is_not_hex_is_refused(spelling: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        fields(spelling).hex("x")
    assert caught.value.code == "INVALID_HEX_ENCODING"


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Fields.parse('{"x":"\\ud800"}', "frame").text("x")
    assert caught.value.code == "INVALID_UTF8"


def test_ids_are_bounded_because_they_are_echoed() -> None:
    assert fields("i" * MAX_ID_CHARS).identifier("x")
    with pytest.raises(RemoteProtocolError, match="at most"):
        fields("i" * (MAX_ID_CHARS + 1)).identifier("x")


@given(st.integers(0, 10_000_000))
def test_fractions_of_existing_clients_are_rounded_to_millionths(number: int) -> None:
    value = number / 1_000_000
    written = json.dumps({"x": value, "y": value + 1e-8})

    read = Fields.parse(written, "frame")

    assert read.fraction("x", default=0, high=11) == value
    assert read.fraction("y", default=0, high=11) == value


def test_a_fraction_that_is_not_there_has_its_default() -> None:
    assert fields(None).fraction("x", default=0.5, high=1) == 0.5


@pytest.mark.parametrize("text", ["-0.1", "1.1", "1e400", "1" + "0" * 400, "true", '"0.5"'])
def test_fractions_out_of_range_are_refused(text: str) -> None:
    """An integer of 400 digits was an OverflowError before: any renter could crash a handler."""
    with pytest.raises(RemoteProtocolError, match="x must be"):
        Fields.parse(f'{{"x":{text}}}', "frame").fraction("x", default=0, high=1)


@given(st.integers(-100_000_000, 100_000_000), st.integers(0, 3))
def test_every_spelling_of_a_decimal_is_one_value(number: int, num_zeros: int) -> None:
    value = number / 1_000_000
    canonical = decimal_text(value)
    whole, _, digits = canonical.partition(".")
    longer = f"{whole}.{digits:0<6}" if digits else whole

    for spelling in (canonical, longer, "0" * num_zeros + canonical if number >= 0 else canonical):
        assert fields(spelling).decimal("x", low=-100, high=100) == value
    assert float(canonical) == value
    assert not canonical.endswith(".")
    assert canonical != "-0"
    if number % 1_000_000 == 0:
        assert fields(number // 1_000_000).decimal("x", low=-100, high=100) == value


@pytest.mark.parametrize(
    "value",
    [0.5, "1e-3", "0.1234567", ".5", "5.", " 1", "1_0", "+1", "nan", "inf", "٣", True, None],
)
def test_what_is_no_decimal_is_refused(value: Json) -> None:
    with pytest.raises(RemoteProtocolError, match="x must be decimal text"):
        fields(value).decimal("x", low=-1, high=100)


@pytest.mark.parametrize("value", ["1.000001", "-0.000001", 2, "9" * 40])
def test_decimals_out_of_range_are_refused(value: Json) -> None:
    with pytest.raises(RemoteProtocolError, match="from 0 to 1"):
        fields(value).decimal("x", low=0, high=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7, -1e7])
def test_numbers_without_a_spelling(value: float) -> None:
    with pytest.raises(ValueError, match="no number"):
        decimal_text(value)


def test_a_field_that_nobody_knows_is_refused_by_name_where_nothing_may_be_ignored() -> None:
    with pytest.raises(RemoteProtocolError, match="'y'") as caught:
        Fields({"x": 1, "y": 2}, "request").refuse_others(frozenset({"x"}))
    assert caught.value.code == "UNSUPPORTED_REQUEST"
    Fields({"x": 1, "y": None}, "request").refuse_others(frozenset({"x"}))


@pytest.mark.parametrize("value", [0, 1, "true", [], {}])
def test_a_switch_is_true_or_false(value: Json) -> None:
    assert fields(True).optional_flag("x") is True
    assert fields(None).optional_flag("x") is None
    with pytest.raises(RemoteProtocolError, match="true or false"):
        fields(value).optional_flag("x")


def test_lists_are_bounded_and_name_their_items() -> None:
    with pytest.raises(RemoteProtocolError, match="at most 2"):
        fields([1, 2, 3]).items("x", limit=2)
    with pytest.raises(RemoteProtocolError, match=r"frame\.x\[1\] is not a JSON object"):
        fields([{}, 5]).children("x", limit=2)
    assert fields(["a", "b"]).texts("x", limit=2, chars=1) == ("a", "b")
