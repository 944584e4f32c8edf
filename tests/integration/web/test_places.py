"""How many connections there may be, in all and of one address, and what the others are told."""

from __future__ import annotations

import logging
import socket

import anyio
import pytest
from tests.integration.web.served import (
    Served,
    frame,
    open_served,
    read_all,
    upgrade_head,
)
from tests.open_files import no_more_open_files

from fabstir.web.inbound.connections import DoorLimits, parse_proxies

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

FEW = DoorLimits(max_connections=6, max_per_address=3)
ELSEWHERE = "127.0.0.2"


async def place(served: Served, *, source: str = "127.0.0.1") -> socket.socket:
    """A silent connection that is accepted."""
    num_before = len(served.connections)
    client = served.connect(source=source)
    with anyio.fail_after(5):
        while len(served.connections) == num_before:
            await anyio.sleep(0.005)
    return client


@pytest.mark.parametrize("kind", ["silent", "WebSocket"])
async def test_one_address_has_so_many_places(kind: str) -> None:
    refused: list[str] = []
    async with open_served(FEW, refused.append) as served:
        if kind == "silent":
            held = [await place(served) for _ in range(3)]
            leave = held[0].close
        else:
            streams = [await served.upgrade("/ws") for _ in range(3)]
            leave = streams[0].aclose

        answer = await served.get("/hello")
        elsewhere = await served.get("/hello", source=ELSEWHERE)

        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in answer
        assert b"127.0.0.1 has 3 connections" in answer
        assert elsewhere.startswith(b"HTTP/1.1 200 ")
        assert refused == ["address"]
        if (leaving := leave()) is not None:
            await leaving
        with anyio.fail_after(5):
            while not (await served.get("/hello")).startswith(b"HTTP/1.1 200 "):
                await anyio.sleep(0.01)


async def test_a_websocket_is_refused_in_words() -> None:
    async with open_served(FEW) as served:
        _held = [await place(served) for _ in range(3)]
        async with await served.open() as stream:
            await stream.send(upgrade_head("/ws"))
            answer = await read_all(stream)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: " in answer


async def test_who_has_most_places_gives_way_to_others() -> None:
    async with open_served(FEW) as served:
        first, *_rest = [await place(served) for _ in range(3)]
        others = [await place(served, source=ELSEWHERE) for _ in range(2)]
        another = await place(served, source="127.0.0.3")

        answer = await served.get("/hello", source="127.0.0.4")

        assert answer.startswith(b"HTTP/1.1 200 ")
        await anyio.wait_readable(first)
        assert first.recv(1) == b""
        for client in (*others, another):
            with pytest.raises(BlockingIOError):
                client.recv(1)


async def test_who_is_known_keeps_a_place() -> None:
    limits = DoorLimits(max_connections=3, max_per_address=3)
    refused: list[str] = []
    async with open_served(limits, refused.append) as served:
        streams = [
            await served.upgrade("/ws", source=source)
            for source in ("127.0.0.1", ELSEWHERE, ELSEWHERE)
        ]
        for stream in streams:
            await stream.send(frame(b"mine"))
            await stream.receive()

        async with await served.upgrade("/ws", source="127.0.0.3") as newcomer:
            await newcomer.send(frame(b"mine"))
            await newcomer.receive()
            answer = await served.get("/hello", source="127.0.0.4")

        assert answer.startswith(b"HTTP/1.1 503 ")
        assert refused == ["full"]
        assert await read_all(streams[2]) == b"", "the newest of who has most"
        for stream in streams[:2]:
            await stream.send(frame(b"more"))
            assert b"4" in await stream.receive()


async def test_a_process_without_descriptors_serves_when_it_has_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_served() as served:
        assert b"hello" in await served.get("/hello")
        with served.connect() as client:
            with no_more_open_files():
                await anyio.sleep(0.3)
            client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with anyio.fail_after(5):
                await anyio.wait_readable(client)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")

    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_a_thousand_connections_of_one_address_cost_a_few() -> None:
    refused: list[str] = []
    async with open_served(DoorLimits(max_per_address=8), refused.append) as served:
        clients: list[socket.socket] = []
        for _ in range(20):
            clients += [served.connect() for _ in range(50)]
            await anyio.sleep(0.02)
        with anyio.fail_after(10):
            while len(refused) < 992:
                await anyio.sleep(0.01)

        assert len(served.connections) == 8
        assert (await served.get("/hello", source=ELSEWHERE)).startswith(b"HTTP/1.1 200 ")
        for client in clients:
            client.close()


async def test_nobody_says_whose_a_request_is_but_a_trusted_proxy() -> None:
    async with open_served() as served:
        assert (await served.get("/who", X_Forwarded_For="9.9.9.9")).endswith(b"127.0.0.1")
    trusting = DoorLimits(trusted_proxies=parse_proxies(["127.0.0.1", "10.0.0.0/8"]))
    async with open_served(trusting) as served:
        said = "8.8.8.8, 9.9.9.9, 10.1.1.1"
        assert (await served.get("/who", X_Forwarded_For=said)).endswith(b"9.9.9.9")
        from_elsewhere = await served.get("/who", source=ELSEWHERE, X_Forwarded_For=said)
        assert from_elsewhere.endswith(b"127.0.0.2")


async def test_behind_a_proxy_places_are_those_of_whom_it_forwards_for() -> None:
    limits = DoorLimits(
        max_connections=20, max_per_address=2, trusted_proxies=parse_proxies(["127.0.0.1"])
    )
    async with open_served(limits) as served:

        async def websocket(client: str) -> bytes:
            stream = await served.open()
            head = upgrade_head("/ws").removesuffix(b"\r\n")
            await stream.send(head + f"X-Forwarded-For: {client}\r\n\r\n".encode())
            return await stream.receive()

        answers = [await websocket("9.9.9.9") for _ in range(3)]
        other = await websocket("8.8.8.8")

    assert [answer[:12] for answer in answers] == [
        b"HTTP/1.1 101",
        b"HTTP/1.1 101",
        b"HTTP/1.1 429",
    ]
    assert b"retry-after" in answers[2].lower()
    assert other.startswith(b"HTTP/1.1 101")
