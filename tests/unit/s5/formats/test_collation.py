"""The order of names in S5.js, as a JavaScript engine (ICU 78) sorts them."""

import pytest

from fabstir.s5.formats.collation import locale_key

# `names.sort((a, b) => a.localeCompare(b))` with Node 24; the differential test is in
# tests/integration/s5/formats.
ASCII = (
    " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789"
    "aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ"
)
MIXED = ["_x", "10", "2", "a", "ä", "b", "B", "é", "z", "Z"]


@pytest.mark.parametrize("letters", [ASCII, "aáàăâåäãąā", "cćĉčċç", "eéèĕêěëėęē", "uúùŭûůüűũųū"])
def test_letters(letters: str) -> None:
    assert "".join(sorted(sorted(letters), key=locale_key)) == letters


@pytest.mark.parametrize(
    "names",
    [
        MIXED,
        [f"f{n}" for n in (0, 1, 10, 11, 2, 20, 3)],
        ["a b", "a_b", "a-b", "a.b", "a1", "Aa", "ab", "aB", "b"],
        ["resume", "résumé", "Résumé", "resumes"],
    ],
)
def test_names(names: list[str]) -> None:
    assert sorted(sorted(names), key=locale_key) == names


def test_controls_have_no_weight() -> None:
    assert locale_key("a\x01b") == locale_key("ab")
