"""Ctrl-C in a program that waits for an answer."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio.from_thread import start_blocking_portal
from tests.unit.sdk.renting import open_renting

from fabstir.sdk import LocalProtocolError, Message, SamplingParams, Session, Text

WORDS = [f"w{number} " for number in range(100)]
HELLO = [Message("user", "Hello")]
UNPROVEN = 10


def test_an_answer_that_is_interrupted_is_cancelled_and_the_next_one_is_whole(
    tmp_path: Path,
) -> None:
    ours = threading.get_ident()

    async def interrupt() -> None:
        signal.pthread_kill(ours, signal.SIGINT)

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_renting(tmp_path, WORDS)) as renting,
    ):
        session = Session(renting.session, portal)
        renting.host.rail.max_unproven = UNPROVEN
        with pytest.raises(KeyboardInterrupt), session.chat(HELLO) as answer:
            for event in answer:
                assert isinstance(event, Text)
                if len(answer.text.split()) == UNPROVEN:  # the host waits from here on
                    portal.start_task_soon(interrupt)
        renting.host.rail.max_unproven = 1 << 30
        with session.chat(HELLO, sampling=SamplingParams(max_tokens=3)) as next_one:
            text = next_one.complete()

    assert answer.is_over
    assert answer.end is not None
    assert answer.end.finish_reason == "cancelled"
    assert (answer.text, text) == ("".join(WORDS[:UNPROVEN]), "".join(WORDS[:3]))
    assert session.tokens == UNPROVEN + 3


def test_a_question_that_is_interrupted_before_it_is_sent_leaves_the_session_as_it_was(
    tmp_path: Path,
) -> None:
    ours = threading.get_ident()
    was_closed = threading.Event()

    async def interrupt() -> None:
        signal.pthread_kill(ours, signal.SIGINT)
        try:
            await anyio.sleep_forever()
        finally:
            was_closed.set()

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_renting(tmp_path, WORDS)) as renting,
    ):
        session = Session(renting.session, portal)
        renting.dialer.while_dialling = interrupt
        with pytest.raises(KeyboardInterrupt), session.chat(HELLO):
            pass
        assert was_closed.is_set()
        renting.dialer.while_dialling = anyio.lowlevel.checkpoint
        with session.chat(HELLO, sampling=SamplingParams(max_tokens=3)) as answer:
            text = answer.complete()

    assert text == "".join(WORDS[:3])


def test_what_is_used_after_the_clients_block_says_so(tmp_path: Path) -> None:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_renting(tmp_path, WORDS)) as renting,
    ):
        session = Session(renting.session, portal)

    with pytest.raises(LocalProtocolError, match="block has been left"):
        session.leave()
    with pytest.raises(LocalProtocolError, match="block has been left"), session.chat(HELLO):
        pass
