"""Server-sent events, read from bytes that arrive in any pieces."""

from __future__ import annotations

MAX_EVENT_BYTES = 1 << 24
"""An event of llama.cpp's server has a few hundred bytes, but some versions repeat the prompt in
the last one: this is a context of four million tokens."""


class EventDecoder:
    """Collects `data:` lines into events; all other fields are ignored, as the standard says."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self._num_begun = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads of the events that `data` completes.

        Raises:
            ValueError: an event is longer than MAX_EVENT_BYTES.
        """
        self._begun.append(data)
        self._num_begun += len(data)
        complete: list[bytes] = []
        if b"\n" in data:  # else a long event would be looked through with each of its pieces
            *complete, rest = b"".join(self._begun).replace(b"\r\n", b"\n").split(b"\n\n")
            self._begun, self._num_begun = [rest], len(rest)
        if self._num_begun > MAX_EVENT_BYTES:
            raise ValueError(f"an event of the engine is longer than {MAX_EVENT_BYTES} bytes")
        return [payload for event in complete if (payload := _payload(event))]


def _payload(event: bytes) -> bytes:
    lines = (line[5:].removeprefix(b" ") for line in event.split(b"\n") if line[:5] == b"data:")
    return b"\n".join(lines)
