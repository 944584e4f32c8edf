"""What others wrote is shown as text, whole, and identifiers in one piece."""

import io

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from fabstir.cli.output import print_result, table

WORD = "[red]" + "x" * 60
PROSE = "words that say why " * 6


def printed(*cells: RenderableType, is_terminal: bool) -> list[str]:
    """The lines below the heading, on 40 columns."""
    out = io.StringIO()
    console = Console(file=out, width=40, force_terminal=is_terminal, color_system=None)
    print_result(console, table("a", "b", "c", rows=[cells]))
    return [line.rstrip() for line in out.getvalue().splitlines()[1:]]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_word_is_never_markup_folded_or_cut(is_terminal: bool) -> None:
    (line,) = printed("name", "1 kB", WORD, is_terminal=is_terminal)

    assert line == f"name  1 kB  {WORD}"


def test_prose_is_wrapped_where_people_read_it_only() -> None:
    on_terminal = printed("name", WORD, PROSE, is_terminal=True)
    in_pipe = printed("name", WORD, PROSE, is_terminal=False)

    assert len(on_terminal) > 1
    assert WORD in on_terminal[0]
    assert " ".join(line[6 + len(WORD) :].strip() for line in on_terminal).split() == PROSE.split()
    assert in_pipe == [f"name  {WORD}  {PROSE}".rstrip()]


def test_a_phrase_that_is_copied_stays_on_its_line() -> None:
    (line,) = printed("phrase", Text(PROSE, no_wrap=True), "", is_terminal=True)

    assert PROSE.strip() in line
