"""A conversation in the terminal: read, ask, stream; Ctrl-C stops an answer, twice leaves."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

from fabstir.cli.chat_view import ChatView
from fabstir.cli.lines import LineCut, LineReader
from fabstir.cli.output import OutputClosed
from fabstir.sdk import FabstirError, Message

if TYPE_CHECKING:
    from fabstir.sdk import AsyncAnswerStream, AsyncSession, SamplingParams

HELP: Final = """/help   show this
/new    forget the conversation so far (the session stays open)
/quit   leave and settle; so does the end of input (Ctrl-D)
Ctrl-C  stop the answer; twice: leave and settle"""

TWICE_SECONDS: Final = 2.0
"""Two Ctrl-C within this time mean: leave. People press the second one at once."""


class Chat:
    """One conversation over one session."""

    def __init__(
        self, session: AsyncSession, view: ChatView, sampling: SamplingParams, system: str
    ) -> None:
        self._session = session
        self._view = view
        self._sampling = sampling
        self._system = system
        self._messages: list[Message] = []
        self._answer: AsyncAnswerStream | None = None
        self._scope = anyio.CancelScope()
        self._interrupted_at = -TWICE_SECONDS
        self._forget()

    async def run(self, lines: LineReader) -> None:
        """Until the user leaves. Errors of one answer are shown, and the next line tries again."""
        async with self._interrupts():
            with self._scope:
                while True:
                    self._view.prompt()
                    try:
                        line = await lines.read_line()
                    except LineCut as cut:
                        self._view.failed(cut)
                        continue
                    if line is None or line.strip() == "/quit":
                        return
                    await self._do(line.strip())

    async def _do(self, line: str) -> None:
        if not line:
            return
        if line == "/new":
            self._forget()
        elif line.startswith("/"):
            self._view.note(HELP)
        else:
            await self._ask(line)

    def _forget(self) -> None:
        self._messages = [Message("system", self._system)] if self._system else []

    async def _ask(self, line: str) -> None:
        turn = [*self._messages, Message("user", line)]
        try:
            async with self._session.chat(turn, sampling=self._sampling) as answer:
                self._answer = answer
                async for event in answer:
                    self._view.event(event)
        except OutputClosed:
            raise  # nobody reads the answers that the next lines would pay for
        except FabstirError as error:
            self._view.failed(error)
            return
        finally:
            self._answer = None
        self._messages = [*turn, Message("assistant", answer.text)]
        self._view.answered(self._session)

    @asynccontextmanager
    async def _interrupts(self) -> AsyncGenerator[None]:
        """Ctrl-C belongs to the chat for the length of the block."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_signals)
            yield
            tasks.cancel_scope.cancel()

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for received in signals:
                await self._interrupt(is_final=received == signal.SIGTERM)

    async def _interrupt(self, *, is_final: bool) -> None:
        now = time.monotonic()
        is_second = now - self._interrupted_at < TWICE_SECONDS
        self._interrupted_at = now
        if is_final or is_second:
            self._scope.cancel()
        elif self._answer is not None:
            await self._cancel(self._answer)
        else:
            self._view.note("\nCtrl-C once more leaves and settles")
            self._view.prompt()

    async def _cancel(self, answer: AsyncAnswerStream) -> None:
        try:
            await answer.cancel()
        except FabstirError as error:
            self._view.failed(error)
