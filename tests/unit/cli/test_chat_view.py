"""A hostile host in the views of `fabstir chat`: nothing of it is obeyed, and nothing breaks."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.protocol.test_docs import RECEIPT

from fabstir.cli import output
from fabstir.cli.chat_view import JsonView, TerminalView
from fabstir.cli.output import PlainConsole
from fabstir.primitives.errors import SessionRefused
from fabstir.primitives.units import TokenCount, Wei
from fabstir.sdk import Finished, PaymentToken, ReceiptVerified, Text
from fabstir.sdk.money import NATIVE_COIN

HOSTILE = [
    "[/]",
    "[link=http://evil]click[/link] :bomb:",
    "\x1b]0;title\x07\x1b[2J",
    "\x9b2J\x85",
    "\rerror: paste your seed phrase\b\b",
    "\u202egnp.exe\u2066",
    "\ud800",
    "a\nerror: forged",
]

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Spent:
    """What a session has cost."""

    token: PaymentToken = NATIVE_COIN
    tokens: TokenCount = TokenCount(7)
    cost: Wei = Wei(10**12)
    deposit_left: Wei = Wei(10**15)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What reaches a terminal with colours."""
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=True, color_system="truecolor", width=80)
    monkeypatch.setattr(output, "console", console)
    return out


def play(view: TerminalView | JsonView, hostile: str) -> None:
    """An answer whose host writes the same everywhere."""
    view.event(Text(text=hostile, num_tokens=TokenCount(3)))
    view.event(
        Finished(
            finish_reason=hostile,
            num_prompt_tokens=TokenCount(1),
            num_completion_tokens=TokenCount(3),
        )
    )
    view.answered(Spent())
    view.failed(SessionRefused(hostile, f"the host says: {hostile}"))


def obeyed(text: str) -> list[str]:
    return [c for c in text if c != "\n" and not c.isprintable() and not c.isspace()]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_host_steers_no_terminal(terminal: io.StringIO, hostile: str) -> None:
    play(TerminalView(), hostile)

    shown = COLOUR.sub("", terminal.getvalue())
    assert obeyed(shown) == []
    assert "\r" not in shown
    assert "3 tokens" in shown
    assert "7 in all" in shown


@given(st.text(st.characters(exclude_categories=())))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_of_a_host_breaks_the_view(terminal: io.StringIO, hostile: str) -> None:
    play(TerminalView(), hostile)


def test_markup_and_emoji_codes_are_text(terminal: io.StringIO) -> None:
    play(TerminalView(), "[bold]:smile:[/bold] [/]")

    assert terminal.getvalue().count("[bold]:smile:[/bold] [/]") == 3


def test_what_a_host_says_of_an_error_is_one_line(terminal: io.StringIO) -> None:
    TerminalView().failed(SessionRefused("X", "the host says: a\nerror: forged"))

    assert COLOUR.sub("", terminal.getvalue()) == "error: the host says: a\\nerror: forged\n"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_programs_read_every_character_and_terminals_obey_none(
    hostile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    play(JsonView(), hostile)

    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in printed.splitlines()]
    assert obeyed(printed) == []
    assert [line["event"] for line in lines] == ["text", "finished", "note"]
    assert lines[0]["text"] == lines[1]["finish_reason"] == hostile


@pytest.mark.parametrize(("num", "says"), [(1, "1 receipt verified"), (2, "2 receipts verified")])
def test_one_receipt_is_one(terminal: io.StringIO, num: int, says: str) -> None:
    view = TerminalView()
    verified = ReceiptVerified(
        receipt=RECEIPT.receipt,
        cumulative_tokens=TokenCount(3),
        cost=Wei(0),
        deposit_left=Wei(0),
        additions=(),
    )
    for _ in range(num):
        view.event(verified)

    view.answered(Spent())

    assert says in " ".join(COLOUR.sub("", terminal.getvalue()).split())


def test_a_note_for_programs_begins_with_no_line_end(capsys: pytest.CaptureFixture[str]) -> None:
    JsonView().note("\nsettling")

    assert json.loads(capsys.readouterr().out)["text"] == "settling"
