"""Request bodies as streams: bounded, not too slow, and never in memory.

A body that breaks off ends in ClientDisconnect, never in a short stream: what takes it keeps
nothing then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from fabstir.primitives.errors import RemoteProtocolError

MAX_PARTS = 16
"""Parts of a form: the file, and fields that are passed over."""

MAX_FIELD_BYTES = 64 * 1024
"""What all the fields together may have."""

_FILE_FIELD = b"file"


def is_form(request: Request) -> bool:
    """Whether the body is a form with a file in it."""
    kind, _ = parse_options_header(request.headers.get("content-type"))
    return kind == b"multipart/form-data"


async def stream_file(request: Request, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The bytes of the form's field `file`; other fields are passed over.

    Raises:
        RemoteProtocolError: it is no form, breaks off, or has no `file` or more than one.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    form = _Form(options.get(b"boundary", b""))
    async for piece in pieces:
        form.write(piece)
        if data := form.take():
            yield data
    form.finish()


class _Form:
    """Collects the events of the parser for one piece at a time."""

    def __init__(self, boundary: bytes) -> None:
        self._data = bytearray()
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._num_parts = self._num_field_bytes = self._num_files = 0
        self._is_file = self._is_whole = False
        if not boundary:
            raise RemoteProtocolError("multipart/form-data needs a boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._name,
                    "on_header_value": self._value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._part_data,
                    "on_end": self._end,
                },
            )
        except ValueError as error:
            raise RemoteProtocolError(f"the boundary cannot be used: {error}") from error

    def write(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise RemoteProtocolError(f"the form is malformed: {error}") from error

    def take(self) -> bytes:
        data, self._data = bytes(self._data), bytearray()
        return data

    def finish(self) -> None:
        if not self._is_whole:
            raise RemoteProtocolError("the form breaks off before its closing boundary")
        if not self._num_files:
            raise RemoteProtocolError("the form has no field named file")

    def _begin(self) -> None:
        self._disposition = b""
        self._is_file = False
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise RemoteProtocolError(f"the form has more than {MAX_PARTS} parts")

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _end_header(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._header = (bytearray(), bytearray())
        if name.lower() == b"content-disposition":
            self._disposition = value

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        self._is_file = options.get(b"name") == _FILE_FIELD
        self._num_files += self._is_file
        if self._num_files > 1:
            raise RemoteProtocolError("the form has more than one field named file")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._data += memoryview(data)[start:end]
            return
        self._num_field_bytes += end - start
        if self._num_field_bytes > MAX_FIELD_BYTES:
            raise RemoteProtocolError(f"the form's fields have more than {MAX_FIELD_BYTES} bytes")

    def _end(self) -> None:
        self._is_whole = True
