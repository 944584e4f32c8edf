"""Answers of an engine over HTTP: however they are cut, cut off, or never read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from fabstir.engines._http import (
    MAX_HEAD_BYTES,
    MAX_UNREAD_BYTES,
    EngineAddress,
    EngineRefused,
)
from fabstir.primitives.errors import EngineCrashed, EngineUnavailable

pytestmark = pytest.mark.anyio

Serve = Callable[[SocketStream], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NEVER = 3600.0
"""Seconds between two parts: only an answer's end comes before."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """uvloop is what a host runs on, and its transports are not asyncio's."""
    return "asyncio", {"use_uvloop": request.param}


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@asynccontextmanager
async def engine_that(serve: Serve) -> AsyncGenerator[EngineAddress]:
    """A server that reads one request's head and then does as it is told."""

    async def answer(stream: SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            await serve(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        yield EngineAddress("127.0.0.1", listener.extra(SocketAttribute.local_port), "key")
        tasks.cancel_scope.cancel()


async def test_an_answer_in_single_bytes(anyio_backend: object) -> None:
    async def serve(stream: SocketStream) -> None:
        for byte in HEAD + chunk(b'{"a":') + chunk(b" 1}") + chunk(b""):
            await stream.send(bytes([byte]))

    async with engine_that(serve) as engine:
        assert await engine.get_json("/props") == {"a": 1}


async def test_the_first_part_comes_at_once_and_the_others_together() -> None:
    is_first_read = anyio.Event()

    async def serve(stream: SocketStream) -> None:
        await stream.send(HEAD + chunk(b"first"))
        await is_first_read.wait()
        for part in (b"second", b"third", b""):
            await stream.send(chunk(part))

    async with (
        engine_that(serve) as engine,
        engine.stream("POST", "/completion", {}, interval=NEVER) as response,
    ):
        assert await response.receive() == b"first"
        is_first_read.set()
        assert await response.receive() == b"secondthird"
        assert await response.receive() == b""


async def test_a_refusal_has_its_status_and_words() -> None:
    async def serve(stream: SocketStream) -> None:
        body = b'{"error": {"message": "too long"}}'
        await stream.send(
            f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )

    async with engine_that(serve) as engine:
        with pytest.raises(EngineRefused) as refused:
            await engine.post_json("/completion", {})

    assert (refused.value.status, refused.value.message) == (400, "too long")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        HEAD,
        HEAD + b"ff\r\nonly this",
        HEAD + b"xx\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1),
        b"HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\ncut",
    ],
    ids=range(8),
)
async def test_an_answer_that_breaks_off_is_a_crash(answer: bytes) -> None:
    async def serve(stream: SocketStream) -> None:
        await stream.send(answer or b"\0")

    async with engine_that(serve) as engine:
        with pytest.raises(EngineCrashed):
            await engine.get_text("/metrics")


async def test_what_came_before_a_crash_is_given_first() -> None:
    async def serve(stream: SocketStream) -> None:
        await stream.send(HEAD + chunk(b"half"))

    async with (
        engine_that(serve) as engine,
        engine.stream("POST", "/completion", {}, interval=NEVER) as response,
    ):
        assert await response.receive() == b"half"
        with pytest.raises(EngineCrashed):
            await response.receive()


async def test_an_engine_is_read_no_further_than_its_reader_reads() -> None:
    num_sent = 0
    is_stuck = anyio.Event()
    piece = b"x" * 65_536

    async def serve(stream: SocketStream) -> None:
        nonlocal num_sent
        await stream.send(HEAD)
        while num_sent < 64 * MAX_UNREAD_BYTES and not is_stuck.is_set():
            with anyio.move_on_after(1.0) as patience:
                await stream.send(chunk(piece))
                num_sent += len(piece)
            if patience.cancelled_caught:
                is_stuck.set()

    async with engine_that(serve) as engine, engine.stream("POST", "/completion", {}) as response:
        assert await response.receive()
        await is_stuck.wait()

        assert num_sent < 32 * MAX_UNREAD_BYTES  # what the kernel's buffers hold is on top
        assert len(await response.receive()) <= 2 * MAX_UNREAD_BYTES


async def test_nobody_listens() -> None:
    async with engine_that(lambda _stream: anyio.sleep(0)) as engine:
        pass

    with pytest.raises(EngineUnavailable, match="does not answer"):
        await engine.get_text("/health")
