"""What is shown of text that somebody else wrote."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.text import many_lines, one_line, plain_json

anything = st.text(st.characters(exclude_categories=()))
"""Every code point, lone surrogates included."""

STEERS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
SHOWN_FORMATS = (
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
JOINERS = "\u200c\u200d"


def steering(text: str, allowed: str) -> list[str]:
    """What of a text a terminal may obey, or show as nothing."""
    return [
        char
        for char in text
        if unicodedata.category(char) in STEERS
        and char not in allowed + SHOWN_FORMATS
        and not 0x1F000 <= ord(char) <= 0x1FBFF
    ]


@given(anything)
def test_a_line_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = one_line(text)

    assert steering(shown, JOINERS) == []
    assert "\n" not in shown
    assert one_line(shown) == shown


@given(anything)
def test_lines_keep_their_ends_and_nothing_else_that_is_obeyed(text: str) -> None:
    shown = many_lines(text)

    assert steering(shown, "\n\t" + JOINERS) == []
    assert shown.count("\n") == text.count("\n")
    shown.encode()  # no lone surrogate is left


@given(anything, st.integers(0, 100))
def test_a_sequence_that_is_split_over_two_pieces_does_not_pass(text: str, at: int) -> None:
    pieces = many_lines(text[:at]) + many_lines(text[at:])

    assert steering(pieces, "\n\t" + JOINERS) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | anything,
    lambda inner: st.lists(inner) | st.dictionaries(anything, inner),
    max_leaves=10,
)


@given(json_values, st.none() | st.just(2))
def test_json_reads_back_as_the_same_and_steers_nothing(value: object, indent: int | None) -> None:
    text = plain_json(value, indent=indent)

    assert steering(text, "\n" + JOINERS) == []
    assert json.loads(text) == json.loads(json.dumps(value))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m red \x7f", r"\x9b31m red \x7f"),
        ("safe\rEVIL\b\b", r"safe\rEVIL\x08\x08"),
        ("one\r\ntwo\tthree", r"one\r\ntwo\tthree"),
        ("\u202ehtap\u202c \u2066x\u2069", r"\u202ehtap\u202c \u2066x\u2069"),
        ("\u200e\u200f\u061c", r"\u200e\u200f\u061c"),
        ("a\u2028b\u2029c\u0085d", r"a\u2028b\u2029c\x85d"),
        ("exam\u200bple\u200d.com\ufeff\u00ad", r"exam\u200bple\u200d.com\ufeff\xad"),
        ("\ue000\U000f0000\U000e0067\ud800", r"\ue000\U000f0000\U000e0067\ud800"),
        ("\u3164\u115f", r"\u3164\u115f"),
        ("[/] [link=x]y[/link] :smile: %s {0}", "[/] [link=x]y[/link] :smile: %s {0}"),
    ],
)  # fmt: skip
def test_what_steers_is_written_out(text: str, shown: str) -> None:
    assert one_line(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "first line\n\tindented\n",
        "שלום עולם, مرحبا بالعالم",
        "👩‍👩‍👧 👍🏽 🇮🇹 ❤️ \U0001fae8",
        "می‌خواهم क्‍ष",
        "e\u0301 ñ z͑ͫ̓a\u00a0b\u3000c",
        "\u0601٢٠٢٦",
    ],
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert many_lines(text) == text
    assert one_line(text.replace("\n", "").replace("\t", "")) == text.replace("\n", "").replace(
        "\t", ""
    )


def test_a_line_is_not_endless() -> None:
    assert one_line("x" * 20, limit=5) == "xxxxx... (15 more characters)"
    assert len(one_line("\x1b" * 10**6)) < 40_000
