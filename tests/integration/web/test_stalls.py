"""A client that reads nothing, or next to nothing, loses its connection; nobody waits for it."""

from __future__ import annotations

import socket
import time

import anyio
import pytest
from tests.integration.web.served import Served, frame, open_served, upgrade_head

from fabstir.web.inbound import guarded_transport, server

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

GET_BIG = b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_transport, "WRITE_STALL", 0.3)
    monkeypatch.setattr(server, "FINISH_SECONDS", 0.3)


def ask(served: Served, head: bytes, *, receive_bytes: int = 16 * 1024) -> socket.socket:
    client = served.connect(receive_bytes=receive_bytes)
    client.sendall(head)
    return client


async def until_nobody_is_connected(served: Served) -> None:
    with anyio.fail_after(10):
        while len(served.connections):
            await anyio.sleep(0.01)


@pytest.mark.parametrize(
    "head", [GET_BIG, upgrade_head("/flood"), upgrade_head("/bye")], ids=["big", "flood", "bye"]
)
async def test_who_reads_nothing_is_cut(head: bytes) -> None:
    async with open_served() as served:
        with ask(served, head):
            with anyio.fail_after(10):
                await served.application.ended.wait()

            await until_nobody_is_connected(served)


async def test_who_reads_a_byte_at_a_time_is_cut() -> None:
    async with open_served() as served:
        with ask(served, GET_BIG) as client, anyio.fail_after(10):
            while not served.application.ended.is_set():
                with anyio.move_on_after(0.02):
                    await anyio.wait_readable(client)
                    client.recv(1)

        await until_nobody_is_connected(served)


async def test_who_is_slow_but_steady_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    num_bytes = 0
    async with open_served() as served:
        client = ask(served, GET_BIG, receive_bytes=1 << 20)
        with anyio.move_on_after(2):
            while True:
                await anyio.wait_readable(client)
                num_bytes += len(client.recv(64 * 1024))
                await anyio.sleep(0.01)
        assert not served.application.ended.is_set()

    assert num_bytes > 4 << 20


async def test_the_server_ends_in_front_of_who_reads_nothing() -> None:
    async with open_served() as served:
        heads = (GET_BIG, upgrade_head("/flood"), upgrade_head("/bye"), b"GET / HT", b"")
        clients = [ask(served, head) for head in heads for _ in range(5)]
        with anyio.fail_after(10):
            await served.application.ended.wait()
        clients += [ask(served, head) for head in heads for _ in range(5)]
        await anyio.sleep(0.1)
        started = time.monotonic()

    assert time.monotonic() - started < 3
    for client in clients:
        client.close()


async def test_pings_of_who_reads_nothing_are_not_answered_into_memory() -> None:
    """A pong for each, without an end, was kept for a client that took none."""
    pings = frame(b"x" * 125, opcode=9)[:1] + bytes([0x80 | 125]) + bytes(4) + b"x" * 125
    num_sent = 0
    async with open_served() as served:
        with ask(served, upgrade_head("/ws")) as client, anyio.fail_after(20):
            while len(served.connections) or not num_sent:
                with anyio.move_on_after(0.05):
                    await anyio.wait_writable(client)
                    try:
                        num_sent += client.send(pings * 1000)
                    except ConnectionError:
                        break

    assert num_sent < 16 << 20
