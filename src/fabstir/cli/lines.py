"""Lines from standard input that can be waited for and given up, from a terminal, pipe or file."""

from __future__ import annotations

import codecs
import os
import stat
import sys

import anyio

from fabstir.cli.output import ask_hidden
from fabstir.cli.streams import require_stream
from fabstir.primitives.edited_text import without_mark
from fabstir.primitives.errors import FabstirError

_READ_BYTES = 64 * 1024


TERMINAL_LINE_BYTES = 4095
"""Of a longer line Linux's terminals keep no more, and say nothing (N_TTY_BUF_SIZE)."""


class LineCut(FabstirError):
    """A line was longer than the terminal gives to programs: its end is lost."""

    def __init__(self) -> None:
        super().__init__(
            f"the terminal cuts lines after {TERMINAL_LINE_BYTES} bytes, so the end of this one is "
            "lost: it is not asked and costs nothing. Put it into a file on one line, and run "
            "`fabstir chat --yes < FILE`"
        )


def read_hidden_line(prompt: str) -> str:
    """A secret: from a hidden prompt, or without a terminal the first line of standard input."""
    if sys.stdin.isatty():
        return ask_hidden(prompt)
    require_stream("stdin")
    line = sys.stdin.readline(_READ_BYTES)
    return without_mark(os.fsencode(line).decode(errors="replace"))  # in whatever locale


class LineReader:
    """Standard input, line by line.

    Not a thread that blocks in `input()`: that one could not be given up on Ctrl-C, and would
    hold the interpreter's lock on standard input while it exits. The terminal itself edits lines.
    """

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._is_terminal = os.isatty(self._fd)
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._buffer = b""
        self._is_ended = False
        self._is_first = True

    async def read_line(self) -> str | None:
        """The next line without its end; None at the end of input.

        Raises:
            LineCut: a terminal cut it.
        """
        while b"\n" not in self._buffer and not self._is_ended:
            if not self._is_file:  # files are always ready, and cannot be waited for
                await anyio.wait_readable(self._fd)
            data = os.read(self._fd, _READ_BYTES)
            self._buffer += data
            self._is_ended = not data
        if not self._buffer:
            return None
        if self._is_first:
            self._buffer = self._buffer.removeprefix(codecs.BOM_UTF8)
            self._is_first = False
        line, _, self._buffer = self._buffer.partition(b"\n")
        if self._is_terminal and len(line) >= TERMINAL_LINE_BYTES:
            raise LineCut
        return line.decode(errors="replace").rstrip("\r")
