"""Lines from a real terminal, which cuts what is pasted into it, and from a pipe."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from fabstir.cli.lines import TERMINAL_LINE_BYTES, LineCut, LineReader

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def as_stdin(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    with os.fdopen(descriptor, "r") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield


async def test_a_line_that_the_terminal_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with as_stdin(slave, monkeypatch):
        lines = LineReader()
        os.write(master, b"w " * 3_000 + b"\n")

        with pytest.raises(LineCut, match="costs nothing"):
            await lines.read_line()
        os.write(master, b"w" * (TERMINAL_LINE_BYTES - 1) + b"\n")
        assert await lines.read_line() == "w" * (TERMINAL_LINE_BYTES - 1)
    os.close(master)


async def test_a_pipe_cuts_nothing_and_may_begin_with_a_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    with as_stdin(reader, monkeypatch):
        lines = LineReader()
        os.write(writer, b"\xef\xbb\xbf" + b"w " * 20_000 + b"\nlast")
        os.close(writer)

        assert await lines.read_line() == "w " * 20_000
        assert await lines.read_line() == "last"
        assert await lines.read_line() is None
