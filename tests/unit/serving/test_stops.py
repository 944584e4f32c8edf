"""Stop strings are found however the text comes in pieces."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from fabstir.serving.stops import StopStrings

few_letters = st.text("ab,", max_size=12)


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """What stands before the stop string that is complete first."""
    found = [(at + len(stop), at) for stop in stops if stop and (at := text.find(stop)) >= 0]
    return (text[: min(found)[1]], True) if found else (text, False)


@given(st.lists(few_letters, max_size=12), st.lists(st.text("ab,", max_size=5), max_size=3))
def test_what_is_shown_is_what_stands_before_the_first_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    matcher, shown = StopStrings(stops), ""
    text = ""
    for piece in pieces:
        text += piece
        shown += matcher.feed(piece)
        if matcher.is_found:
            break
    shown += matcher.rest()

    assert (shown, matcher.is_found) == expected(text, stops)


@example([",aa", "a"], ["a", ",aaa"])
@given(st.lists(few_letters, max_size=12), st.lists(st.text("ab,", max_size=5), max_size=3))
def test_nothing_is_shown_that_a_stop_string_may_take_back(
    pieces: list[str], stops: list[str]
) -> None:
    matcher, shown = StopStrings(stops), ""
    for piece in pieces:
        shown += matcher.feed(piece)

    assert expected("".join(pieces), stops)[0].startswith(shown)


def test_nothing_is_kept_without_stop_strings() -> None:
    matcher = StopStrings(["", ""])

    assert matcher.feed("a") == "a"
    assert not matcher.is_found
