"""The values of a message of S5's peers: msgpack, one after another, without an array around them.

The only module that meets msgpack's untyped objects.
"""

from __future__ import annotations

from typing import Any, cast

import msgpack
from msgpack.exceptions import OutOfData, UnpackException

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.limits import MAX_URI_BYTES, MAX_WIRE_BYTES, MAX_WIRE_PARTS

_MSGPACK: Any = msgpack  # it has no types

_MAX_NESTED_ITEMS = 256
"""Most items of any array or map: above every list that a message has."""


def pack(*values: object) -> bytes:
    """The values in their shortest forms, one after another."""
    return b"".join(cast("bytes", _MSGPACK.packb(value)) for value in values)


class Items:
    """Values from the front of `data`, at most MAX_WIRE_BYTES; `what` names the message in errors.

    Every getter raises RemoteProtocolError, never another error.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self.what = what
        self._unpacker: Any = _MSGPACK.Unpacker(
            max_buffer_size=MAX_WIRE_BYTES,
            max_array_len=_MAX_NESTED_ITEMS,
            max_map_len=_MAX_NESTED_ITEMS,
            strict_map_key=False,
        )
        self._unpacker.feed(data)
        self._size = len(data)

    def is_at_end(self) -> bool:
        """Whether no byte is left."""
        return self._unpacker.tell() >= self._size

    def next(self) -> object:
        """The next value, whatever it is."""
        try:
            return self._unpacker.unpack()
        except OutOfData:
            raise RemoteProtocolError(f"{self.what} is cut off") from None
        except (UnpackException, ValueError, TypeError, RecursionError) as exc:
            # TypeError: a map whose key is a list
            raise RemoteProtocolError(f"{self.what} is not msgpack ({type(exc).__name__})") from exc

    def number(self, name: str, *, below: int) -> int:
        value = self.next()
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
            raise self._error(name, f"an unsigned integer below {below}")
        return value

    def flag(self, name: str) -> bool:
        value = self.next()
        if not isinstance(value, bool):
            raise self._error(name, "true or false")
        return value

    def binary(self, name: str, *, low: int, high: int) -> bytes:
        """Bytes, at least `low` and at most `high` of them."""
        value = self.next()
        if not isinstance(value, bytes) or not low <= len(value) <= high:
            raise self._error(name, f"{low} to {high} bytes")
        return value

    def text(self, name: str, *, max_bytes: int) -> str:
        value = self.next()
        if not isinstance(value, str) or len(value.encode()) > max_bytes:
            raise self._error(name, f"text of at most {max_bytes} bytes")
        return value

    def uris(self) -> tuple[str, ...]:
        """A count, and as many URIs."""
        count = self.number("the number of URIs", below=MAX_WIRE_PARTS + 1)
        return tuple(self.text("a URI", max_bytes=MAX_URI_BYTES) for _ in range(count))

    def numbers(self, name: str, *, most: int, below: int) -> tuple[int, ...]:
        """An array of unsigned integers."""
        value = self.next()
        if not isinstance(value, list):
            raise self._error(name, "a list")
        values = cast("list[object]", value)
        fits = [v for v in values if type(v) is int and 0 <= v < below]
        if len(fits) != len(values) or len(values) > most:
            raise self._error(name, f"at most {most} unsigned integers below {below}")
        return tuple(fits)

    def map(self, name: str) -> dict[object, object]:
        value = self.next()
        if not isinstance(value, dict):
            raise self._error(name, "a map")
        return cast("dict[object, object]", value)

    def _error(self, name: str, expected: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self.what}: {name} must be {expected}")
