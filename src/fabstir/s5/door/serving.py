"""One representation, whole or in part, under the conditions that the client set (RFC 9110)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import CorruptBlob, FabstirError, RemoteProtocolError
from fabstir.s5.door.answers import SANDBOX, error_body, json_response
from fabstir.s5.door.names import parse_blob_name
from fabstir.s5.door.ranges import (
    ByteRange,
    Unsatisfiable,
    allows_range,
    parse_condition,
    parse_range,
)

logger = logging.getLogger(__name__)

ReadRange = Callable[[int, int], AsyncIterator[bytes]]
"""Yields the bytes from start to end."""

FOREVER: Final = "public, max-age=31536000, immutable"
"""A blob never changes under its identifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """What a URL shows now.

    Attributes:
        etag: opaque, without quotes.
        is_it: whether a tag of the client's means this representation.
        read: yields the bytes from start to end, verified; it raises before the first of them or
            between two, never after a wrong one.
    """

    size: int
    etag: str
    is_it: Callable[[str], bool]
    read: ReadRange
    media_type: str = "application/octet-stream"
    cache_control: str = FOREVER
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


async def serve(request: Request, shown: Representation, *, write_timeout: float) -> Response:
    """Answer GET or HEAD.

    Raises:
        FabstirError: what `read` raises before its first piece.
    """
    headers = {
        "ETag": f'"{shown.etag}"',
        "Cache-Control": shown.cache_control,
        "Accept-Ranges": "bytes",
        **SANDBOX,
        **shown.headers,
    }
    refused = _check_conditions(request, shown, headers)
    if refused is not None:
        return refused
    part = _wanted(request, shown)
    if part is Unsatisfiable.UNSATISFIABLE:
        headers["Content-Range"] = f"bytes */{shown.size}"
        message = f"the range begins behind the end of {shown.size} bytes"
        return json_response(error_body("range_not_satisfiable", message), 416, headers)
    status = 200
    if isinstance(part, ByteRange):
        status, headers["Content-Range"] = 206, part.content_range(shown.size)
    start, end = (part.start, part.end) if isinstance(part, ByteRange) else (0, shown.size)
    headers["Content-Length"] = str(end - start)
    headers["Content-Type"] = shown.media_type
    if request.method == "HEAD":
        return Response(None, status, headers)
    pieces = shown.read(start, end)
    first = await anext(pieces, b"")  # so that what fails at once still gets its own status
    if len(first) == end - start:
        return Response(first, status, headers)
    return _Streamed(status, headers, first, pieces, end - start, write_timeout)


def _check_conditions(
    request: Request, shown: Representation, headers: Mapping[str, str]
) -> Response | None:
    if_match = parse_condition(request.headers.get("if-match"))
    if if_match is not None and not if_match.names(shown.is_it, is_strong=True):
        message = "it is another version than If-Match names"
        return json_response(error_body("precondition_failed", message), 412)
    if_none_match = parse_condition(request.headers.get("if-none-match"))
    if if_none_match is not None and if_none_match.names(shown.is_it, is_strong=False):
        return Response(None, 304, headers)
    return None


def _wanted(request: Request, shown: Representation) -> ByteRange | Unsatisfiable | None:
    if request.method != "GET" or not allows_range(request.headers.get("if-range"), shown.is_it):
        return None
    return parse_range(request.headers.get("range"), shown.size)


class _Streamed(Response):
    """A body in pieces. Where one fails, the connection is closed: the client sees fewer bytes
    than Content-Length announced, never a body that ends well."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        first: bytes,
        pieces: AsyncIterator[bytes],
        length: int,
        write_timeout: float,
    ) -> None:
        super().__init__(None, status, headers)
        self._first = first
        self._pieces = pieces
        self._length = length
        self._write_timeout = write_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks, _closing(self._pieces):

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()  # else the rest would be read from disk for nobody

            tasks.start_soon(watch)
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            try:
                await self._send_all(send)
            except CorruptBlob:
                logger.exception("a download was cut off: the blob is damaged")
            except FabstirError as error:
                logger.warning("a download was cut off", extra={"reason": str(error)})
            except TimeoutError:
                logger.info("a download was cut off: its reader is too slow")
            tasks.cancel_scope.cancel()

    async def _send_all(self, send: Send) -> None:
        num_bytes = len(self._first)
        await self._send(send, self._first, is_last=False)
        async for piece in self._pieces:
            num_bytes += len(piece)
            await self._send(send, piece, is_last=False)
        if num_bytes == self._length:
            await self._send(send, b"", is_last=True)

    async def _send(self, send: Send, piece: bytes, *, is_last: bool) -> None:
        message: Message = {"type": "http.response.body", "body": piece, "more_body": not is_last}
        with anyio.fail_after(self._write_timeout):
            await send(message)


@contextlib.asynccontextmanager
async def _closing(pieces: AsyncIterator[bytes]) -> AsyncGenerator[None]:
    """Close a generator that may not be at its end; other iterators have nothing to close."""
    try:
        yield
    finally:
        if isinstance(pieces, AsyncGenerator):
            with anyio.CancelScope(shield=True):
                await pieces.aclose()


def means_blob(blob: BlobId) -> Callable[[str], bool]:
    """Whether a tag is this blob's identifier, in whatever encoding."""

    def is_it(tag: str) -> bool:
        try:
            return parse_blob_name(tag).is_of(blob)
        except RemoteProtocolError:
            return False

    return is_it


def inline_as(name: str) -> str:
    """A Content-Disposition that shows the file under a name, whatever the name is."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
