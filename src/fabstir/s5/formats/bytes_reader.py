"""Strict reading of binary forms: whatever the bytes, a value or RemoteProtocolError."""

from __future__ import annotations

from typing import Literal

from fabstir.primitives.errors import RemoteProtocolError


class Reader:
    """Bytes from the front; `what` names them in errors."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.position = 0

    def take(self, num_bytes: int) -> bytes:
        """The next bytes. Raises RemoteProtocolError: there are fewer."""
        end = self.position + num_bytes
        if end > len(self._data):
            raise RemoteProtocolError(
                f"{self._what} is cut off: byte {end} is needed, and it has {len(self._data)}"
            )
        piece = bytes(self._data[self.position : end])
        self.position = end
        return piece

    def expect(self, expected: bytes) -> None:
        """Pass over what must stand here. Raises RemoteProtocolError."""
        found = self.take(len(expected))
        if found != expected:
            raise RemoteProtocolError(
                f"{self._what} has {found.hex()} where {expected.hex()} belongs"
            )

    def number(self, num_bytes: int, order: Literal["little", "big"]) -> int:
        """An unsigned integer."""
        return int.from_bytes(self.take(num_bytes), order)

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self._data) - self.position)

    def end(self) -> None:
        """Raises RemoteProtocolError: something follows."""
        if self.position != len(self._data):
            raise RemoteProtocolError(
                f"{self._what} has {len(self._data)} bytes, and {self.position} belong to it"
            )
