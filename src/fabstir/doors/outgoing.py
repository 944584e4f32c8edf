"""Frames on their way to one client. Whoever puts one never waits for the client.

A client may read slowly, or nothing at all. What others depend on (an eviction, a mined claim, a
settlement, a shutdown) only puts a frame here and goes on; an answer looks whether there is room
before it decodes further. One task takes the frames out and writes them, under a deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from fabstir.protocol.frames import Frame, encode_frame
from fabstir.telemetry.waiting import Wakeup

ROOM_CHARS: Final = 64 * 1024
"""More than this waiting: an answer makes no further piece. Some 200 pieces; a client that reads at
all is never so far behind, since the kernel buffers several times as much."""

MAX_CHARS: Final = 1024 * 1024
"""More than this waiting: the client reads nothing, and is let go. Beside answers, which stop at
ROOM_CHARS, only what it asks for itself (pongs, errors) can fill it."""

WRITE_TIMEOUT: Final = 15.0
"""Seconds for one frame to fit into the socket; then the client is let go. Our SDK takes a host
that is silent for as long to be gone."""

WriteText = Callable[[str], Awaitable[None]]
"""Puts one text on the wire. Raises BrokenResourceError when the client is gone."""


class Outgoing:
    """The queue, for the length of `run`."""

    def __init__(self, on_room: Callable[[], None]) -> None:
        """
        Args:
            on_room: called when there is room again, and when the client is gone.
        """
        self._on_room = on_room
        self._waiting: deque[str] = deque()
        self._num_chars = 0
        self._is_closed = False
        self._wakeup = Wakeup()

    @property
    def has_room(self) -> bool:
        """Whether an answer may go on."""
        return self._num_chars < ROOM_CHARS

    def put(self, frames: list[Frame]) -> None:
        """Queue frames, in this order, behind all that wait.

        Raises:
            BrokenResourceError: the client is gone, or is let go because it reads nothing.
        """
        if self._is_closed:
            raise anyio.BrokenResourceError
        for frame in frames:
            text = encode_frame(frame)
            self._waiting.append(text)
            self._num_chars += len(text)
        if self._num_chars > MAX_CHARS:
            self.close()
            raise anyio.BrokenResourceError
        self._wakeup.wake()

    def close(self) -> None:
        """Take nothing any more: `run` ends."""
        self._is_closed = True
        self._wakeup.wake()
        self._on_room()

    async def run(self, write: WriteText) -> None:
        """Write what is put, until the client is gone or is let go.

        Raises:
            BrokenResourceError: it is; nothing else.
        """
        try:
            while not self._is_closed:
                await self._wakeup.sleep()
                await self._write_waiting(write)
            raise anyio.BrokenResourceError
        except TimeoutError as error:
            raise anyio.BrokenResourceError from error
        finally:
            self.close()

    async def _write_waiting(self, write: WriteText) -> None:
        while self._waiting and not self._is_closed:
            text = self._waiting.popleft()
            with anyio.fail_after(WRITE_TIMEOUT):
                await write(text)
            had_room = self.has_room
            self._num_chars -= len(text)
            if self.has_room and not had_room:
                self._on_room()
