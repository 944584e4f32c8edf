"""A program in a terminal of its own, as a person sees it and types."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import Process

TIMEOUT = 60.0
CTRL_C = b"\x03"


class Terminal:
    """What a person sees and types."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._seen = ""

    async def see(self, text: str) -> str:
        """Wait until `text` appears; returns everything since the last call."""
        # EIO: the program has ended.
        with anyio.move_on_after(TIMEOUT), suppress(OSError):
            while text not in self._seen:
                await anyio.wait_readable(self._fd)
                self._seen += os.read(self._fd, 65536).decode(errors="replace")
        assert text in self._seen, f"no {text!r} in {self._seen!r}"
        before, _, self._seen = self._seen.partition(text)
        return before

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)


@asynccontextmanager
async def terminal(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
) -> AsyncGenerator[tuple[Terminal, Process]]:
    """Run a command in a terminal of its own; it is killed if it still runs at the end."""
    ours, theirs = pty.openpty()
    process = await anyio.open_process(
        [sys.executable, "-c", _IN_ITS_OWN_TERMINAL, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm", "COLUMNS": "200"},
        cwd=cwd,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()
        os.close(ours)


_IN_ITS_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C reaches only whoever has the terminal
os.execv(sys.argv[1], sys.argv[1:])
"""
