"""Lines from standard input that can be waited for and given up, from a terminal, pipe or file."""

from __future__ import annotations

import os
import stat
import sys

import anyio

_READ_BYTES = 64 * 1024


class LineReader:
    """Standard input, line by line.

    Not a thread that blocks in `input()`: that one could not be given up on Ctrl-C, and would
    hold the interpreter's lock on standard input while it exits. The terminal itself edits lines.
    """

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._buffer = b""
        self._is_ended = False

    async def read_line(self) -> str | None:
        """The next line without its end; None at the end of input."""
        while b"\n" not in self._buffer and not self._is_ended:
            if not self._is_file:  # files are always ready, and cannot be waited for
                await anyio.wait_readable(self._fd)
            data = os.read(self._fd, _READ_BYTES)
            self._buffer += data
            self._is_ended = not data
        if not self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")
