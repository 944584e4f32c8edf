"""HTTP to an engine: one connection a request, and of a streamed answer what a reader can use.

A connection of its own for each request, because llama.cpp's server drops a kept-alive one after
a streamed answer, and because closing it is what cancels decoding. Parsing (llhttp, which Node
uses) happens where the bytes arrive: a token wakes no task, and who reads is woken for what has
come together, at most once in `BATCH_SECONDS`.
"""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import anyio
import httptools

from fabstir.primitives.errors import EngineCrashed, EngineUnavailable

CONNECT_TIMEOUT = 15.0
"""Seconds. The child is on this machine, and one that is gone refuses at once: what takes long is
this process, on a machine that is too busy to run it."""

REQUEST_TIMEOUT = 30.0
"""Seconds for an unstreamed answer: tokenizing a million tokens takes a few."""

MAX_UNREAD_BYTES: Final = 1 << 20
"""More of an answer's body than this unread: the engine is read no further until it is."""

MAX_HEAD_BYTES: Final = 1 << 16
"""Of an answer, before its body begins."""

_OK: Final = 200

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_exhausted(error: BaseException | None) -> bool:
    """Whether it was this process that could not ask: out of descriptors or memory."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            return True
        error = error.__cause__
    return False


class EngineRefused(Exception):
    """The engine answered with an error status; for the driver to translate."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}: {body[:200]!r}")
        self.status = status
        self.body = body

    @property
    def message(self) -> str:
        """What the engine says itself, or all that came."""
        try:
            return str(json.loads(self.body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return str(self)


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where the engine listens, and the key that it asks for; without one, none is sent.

    Attributes:
        tls: whose certificates are believed; None for plain HTTP.
        prefix: what its paths begin with.
    """

    host: str
    port: int
    api_key: str = field(repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    prefix: str = ""

    async def get_json(self, path: str) -> Any:
        """Raises EngineUnavailable, EngineCrashed or EngineRefused."""
        return json.loads(await self._read("GET", path, None))

    async def post_json(self, path: str, body: Any) -> Any:
        """Raises EngineUnavailable, EngineCrashed or EngineRefused."""
        return json.loads(await self._read("POST", path, body))

    async def get_text(self, path: str) -> str:
        """Raises EngineUnavailable, EngineCrashed or EngineRefused."""
        return (await self._read("GET", path, None)).decode()

    async def _read(self, method: str, path: str, body: Any) -> bytes:
        try:
            with anyio.fail_after(REQUEST_TIMEOUT):
                async with self.stream(method, path, body) as response:
                    return await response.read()
        except TimeoutError as error:
            raise EngineUnavailable(
                f"the engine did not answer {path} in {REQUEST_TIMEOUT:g} s: it hangs or is "
                "overloaded; try again, with fewer requests at once"
            ) from error

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, body: Any, *, interval: float = 0.0
    ) -> AsyncGenerator[EngineResponse]:
        """Send one request; its answer is read inside the block.

        Leaving the block closes the connection, from which the server knows that nobody listens.
        A streamed answer has no timeout: how long a prompt takes depends on the model, and a hung
        child is found by its heartbeat.

        Args:
            interval: see `EngineResponse.receive`.

        Raises:
            EngineUnavailable: nobody listens.
        """
        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                transport, response = await loop.create_connection(
                    lambda: self.open_response(interval), self.host, self.port, ssl=self.tls
                )
        except (OSError, TimeoutError) as error:
            raise self.unreachable(error) from error
        try:
            transport.write(self._request(method, path, body))
            yield response
        finally:
            transport.abort()

    def open_response(self, interval: float) -> EngineResponse:
        """What reads the answer of a new connection."""
        return EngineResponse(interval)

    def unreachable(self, error: OSError) -> EngineUnavailable:
        """What is said where nobody can be connected to."""
        return EngineUnavailable(
            "the engine does not answer: it is starting, restarting or gone; try again soon"
        )

    def _request(self, method: str, path: str, body: Any) -> bytes:
        payload = b"" if body is None else json.dumps(body).encode()
        authorization = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        head = (
            f"{method} {self.prefix}{path} HTTP/1.1\r\n"
            f"Host: {self.host}:{self.port}\r\n"
            f"{authorization}"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + payload


class EngineResponse(asyncio.Protocol):
    """One answer as it arrives. One task reads it."""

    def __init__(self, interval: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval = interval
        self._due = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._status = 0
        self._num_head_bytes = 0
        self._has_length = False
        self._body: list[bytes] = []
        self._num_unread = 0
        self._is_whole = False
        self._is_lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    # -- reading ------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """All of the body. Raises as `receive` does."""
        parts: list[bytes] = []
        while part := await self.receive():
            parts.append(part)
        return b"".join(parts)

    async def receive(self) -> bytes:
        """What has come of the body since the last time; empty at its end.

        The first part is given at once, a further one not before `interval` seconds after the one
        before it, unless the body has ended.

        Raises:
            EngineRefused: any status but 200.
            EngineCrashed: the connection broke before the answer's end.
        """
        while not self._is_ready:
            await self._wait()
        data = self._take()
        if self._is_whole and self._status != _OK:
            raise EngineRefused(self._status, data)
        if not data and not self._is_whole:
            raise self.broken()
        self._due = self._loop.time() + self._interval
        return data

    def broken(self) -> EngineCrashed:
        """What is said of an answer that breaks off."""
        return EngineCrashed(
            "the engine died while it answered: it is started again; send the request again"
        )

    async def _wait(self) -> None:
        """Until something has come, or nothing will."""
        self._waiter = self._loop.create_future()
        self._wake()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @property
    def _is_ready(self) -> bool:
        if self._is_whole or self._is_lost:
            return True
        return bool(self._body) and self._status == _OK and self._loop.time() >= self._due

    def _take(self) -> bytes:
        data = b"".join(self._body)
        self._body.clear()
        if self._num_unread > MAX_UNREAD_BYTES and self._transport is not None:
            self._transport.resume_reading()
        self._num_unread = 0
        return data

    def _wake(self) -> None:
        """Wake who reads, or see to it that it is woken when it may read on."""
        if self._waiter is None or self._waiter.done():
            return
        if self._is_ready:
            self._waiter.set_result(None)
        elif self._body and self._status == _OK and self._alarm is None:
            self._alarm = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._wake()

    # -- arriving -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asked by isinstance: uvloop's are none of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._status:
            self._num_head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()
        if not self._status and self._num_head_bytes > MAX_HEAD_BYTES:
            self.abort()
        self._wake()

    def eof_received(self) -> None:
        if self._status and not self._has_length:
            self._is_whole = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._alarm is not None:
            self._alarm.cancel()
        self._wake()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- what the parser finds ----------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._has_length = True

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)
        self._num_unread += len(body)
        if self._num_unread > MAX_UNREAD_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._is_whole = True
