"""Server-sent events, read from bytes that arrive in any pieces."""

from __future__ import annotations

MAX_EVENT_BYTES = 1 << 24
"""An event of llama.cpp's server has a few hundred bytes, but some versions repeat the prompt in
the last one: this is a context of four million tokens."""


class EventDecoder:
    """Collects `data:` lines into events; all other fields are ignored, as the standard says."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads of the events that `data` completes.

        Raises:
            ValueError: an event is longer than MAX_EVENT_BYTES.
        """
        self._buffer = (self._buffer + data).replace(b"\r\n", b"\n")
        *complete, self._buffer = self._buffer.split(b"\n\n")
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise ValueError(f"an event of the engine is longer than {MAX_EVENT_BYTES} bytes")
        return [payload for event in complete if (payload := _payload(event))]


def _payload(event: bytes) -> bytes:
    lines = (line[5:].removeprefix(b" ") for line in event.split(b"\n") if line[:5] == b"data:")
    return b"\n".join(lines)
