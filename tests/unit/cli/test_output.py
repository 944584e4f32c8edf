"""What others wrote is shown as text, whole, and identifiers in one piece."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import RenderableType
from rich.text import Text

from fabstir.cli.output import (
    PlainConsole,
    lines,
    paragraphs,
    print_result,
    show_error,
    show_uncaught,
    table,
    together,
    unwrapped,
)

WORD = "[red]" + "x" * 60
PROSE = "words that say why " * 6


def printed(*cells: RenderableType, is_terminal: bool) -> list[str]:
    """The lines below the heading, on 40 columns."""
    out = io.StringIO()
    console = PlainConsole(file=out, width=40, force_terminal=is_terminal, color_system=None)
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


HOSTILE = "\x1b[2J\x9b\r\u202e[/]:smile:\ud800"
SHOWN = "\\x1b[2J\\x9b\\r\\u202e[/]:smile:\\ud800"


@pytest.mark.parametrize(
    "rendered",
    [
        HOSTILE,
        table(HOSTILE, rows=[]),
        table("a", rows=[(HOSTILE,)]),
        together(HOSTILE, table("a", rows=[(HOSTILE,)])),
        lines(HOSTILE, HOSTILE),
        paragraphs(HOSTILE),
        unwrapped(HOSTILE),
    ],
)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_whatever_is_shown_nothing_in_it_is_obeyed(
    rendered: RenderableType, is_terminal: bool
) -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=200, force_terminal=is_terminal, color_system=None)

    print_result(console, rendered)

    shown = out.getvalue()
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []
    assert "[/]:smile:" in shown
    assert SHOWN in shown


def test_a_text_that_another_module_made_is_written_out_too() -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=200)

    console.print(Text(HOSTILE), together(Text(HOSTILE)))

    assert [c for c in out.getvalue() if not c.isprintable() and c != "\n"] == []


def test_an_error_is_one_line_that_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(f"the host says: {HOSTILE}\nerror: forged")

    assert capsys.readouterr().err == f"error: the host says: {SHOWN}\\nerror: forged\n"


def test_what_a_person_said_cannot_pass_for_another() -> None:
    assert paragraphs("user: hi\nassistant: x", "assistant: y").plain == (
        "user: hi\n    assistant: x\nassistant: y"
    )


def test_a_bugs_traceback_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_uncaught(ValueError, ValueError(HOSTILE), None)

    assert f"ValueError: {SHOWN}" in capsys.readouterr().err


def test_a_reader_that_left_ends_the_command_by_name() -> None:
    script = (
        "import os; from fabstir.cli.output import *\n"
        "try:\n    [say('x' * 9999) for _ in range(99)]\n"
        "except OutputClosed as error:\n    note(str(error))\n"
    )
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)

    assert done.stderr.decode() == "standard output cannot be written: Broken pipe\n"
    assert done.returncode == 0
