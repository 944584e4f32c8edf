"""A host's doors when they are asked for too much: too long, too slow, too often."""

from __future__ import annotations

import json
import secrets
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from anyio.abc import SocketStream
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from fabstir.doors import facts
from fabstir.doors.host_guard import CHALLENGE_BURST
from fabstir.doors.strangers import StrangerLimits
from fabstir.node.build import Host
from fabstir.sdk.websocket import websocket_url
from fabstir.web.bodies import MAX_JSON_BYTES, BodyLimits

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.slow]

POST = "POST /v1/auth/challenge HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PIECE = bytes(64 * 1024)


async def dial(host: Host, source: str) -> SocketStream:
    port = urlsplit(host.api_url).port or 0
    return await anyio.connect_tcp("127.0.0.1", port, local_host=source)


async def answer_to(stream: SocketStream) -> bytes:
    """All that comes until the connection is closed."""
    answer = b""
    with anyio.fail_after(10):
        try:
            while True:
                answer += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return answer


@pytest.mark.parametrize("expects", ["", "Expect: 100-continue\r\n"])
async def test_a_body_that_is_too_long_is_not_waited_for(host: Host, expects: str) -> None:
    async with await dial(host, "127.0.0.11") as stream:
        head = f"{POST}{expects}Content-Length: {700 << 20}\r\n\r\n"
        await stream.send(head.encode())

        answer = await answer_to(stream)

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_without_an_end_is_cut_off(host: Host) -> None:
    num_sent = 0
    async with await dial(host, "127.0.0.11") as stream:
        await stream.send(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode())
        with anyio.fail_after(20):
            try:
                while num_sent < 64 << 20:
                    await stream.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
                    num_sent += len(PIECE)
            except anyio.BrokenResourceError:
                pass

    assert num_sent < 32 << 20, f"{MAX_JSON_BYTES} bytes are taken, and what is on its way"


async def test_a_body_that_does_not_come_is_given_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_BODY_LIMITS", BodyLimits(read_timeout=0.2))
    async with await dial(host, "127.0.0.11") as stream:
        await stream.send(f"{POST}Content-Length: 80\r\n\r\nhalf".encode())

        assert (await answer_to(stream)).startswith(b"HTTP/1.1 408 ")


async def test_an_unwanted_body_ends_the_connection(host: Host) -> None:
    async with await dial(host, "127.0.0.11") as stream:
        head = f"GET /v1/version HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {1 << 40}\r\n\r\n"
        await stream.send(head.encode())

        assert b"connection: close" in (await answer_to(stream)).lower()


async def test_challenges_of_one_address_are_rationed(host: Host) -> None:
    def client(source: str) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(local_address=source)
        return httpx.AsyncClient(base_url=host.api_url, transport=transport)

    body = {"challenge": secrets.token_hex(32)}
    async with client("127.0.0.12") as greedy, client("127.0.0.13") as other:
        answers = [
            await greedy.post("/v1/auth/challenge", json=body) for _ in range(2 * CHALLENGE_BURST)
        ]
        elsewhere = await other.post("/v1/auth/challenge", json=body)
        health = await greedy.get("/v1/health")

    last = answers[-1]
    assert (answers[0].status_code, last.status_code) == (200, 429)
    assert int(last.headers["retry-after"]) >= 1
    assert last.json()["error_type"] == "too_many_requests"
    assert (elsewhere.status_code, health.status_code) == (200, 200)


async def test_who_sends_nonsense_is_let_go_in_words(host: Host) -> None:
    url = websocket_url(host.api_url)
    async with connect(url, proxy=None, local_addr=("127.0.0.14", 0)) as socket:
        await socket.recv()
        with pytest.raises(ConnectionClosed) as closed, anyio.fail_after(20):
            for _ in range(2 * StrangerLimits().refusal_burst):
                await socket.send('{"type": "encrypted_close"}')
                assert json.loads(await socket.recv())["type"] == "error"

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert "RATE_LIMITED" in closed.value.rcvd.reason
