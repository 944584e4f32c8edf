"""Who may call from where: foreign pages, cookies, other names of the node, and how often."""

from __future__ import annotations

import secrets
from pathlib import Path

import anyio
import httpx
import pytest
from tests.integration.s5.door.door import Door, error_of, open_door
from tests.integration.s5.door.raw import connect, exchange, read_all, status_of

from fabstir.s5.door import Limits
from fabstir.web.inbound import http_protocol

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

FOREIGN = {"Origin": "https://page.example"}


async def with_cookie(door: Door, method: str, path: str, **headers: str) -> httpx.Response:
    account = await door.account()
    headers["Cookie"] = f"a=b; s5-auth-token={account.token}; c=d"
    return await door.http.request(method, path, headers=headers, content=b"x")


async def test_a_cookie_reads(door: Door) -> None:
    answer = await with_cookie(door, "GET", "/s5/account")

    assert answer.status_code == 200


async def test_a_cookie_writes_from_the_nodes_own_pages_only(door: Door) -> None:
    own = await with_cookie(door, "POST", "/s5/upload", Origin=door.url)
    none = await with_cookie(door, "POST", "/s5/upload")
    null = await with_cookie(door, "POST", "/s5/upload", Origin="null")
    other_port = await with_cookie(door, "POST", "/s5/upload", Origin="http://127.0.0.1:1")
    foreign = await with_cookie(door, "POST", "/s5/upload", **FOREIGN)
    delete = await with_cookie(door, "DELETE", "/s5/delete/x", Origin="http://localhost:1")

    assert own.status_code == 200
    for answer in (none, other_port, delete):
        assert (answer.status_code, error_of(answer)) == (401, "unauthorized")
    for answer in (null, foreign):
        assert (answer.status_code, error_of(answer)) == (403, "forbidden")


async def test_a_node_that_is_not_public_lets_foreign_pages_read_only(door: Door) -> None:
    blob = (await door.owner.post("/s5/upload", content=b"public")).json()["cid"]

    read = await door.http.get(f"/s5/blob/{blob}", headers=FOREIGN)
    write = await door.owner.post("/s5/upload", content=b"x", headers=FOREIGN)
    register = await door.http.get("/s5/account/register", headers=FOREIGN)
    near = await door.owner.post(
        "/s5/upload", content=b"x", headers={"Origin": "http://localhost:3000"}
    )

    assert read.status_code == 200
    assert read.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in read.headers
    for answer in (write, register):
        assert (answer.status_code, error_of(answer)) == (403, "forbidden")
        assert answer.headers["access-control-allow-origin"] == "*"
    assert near.status_code == 200


@pytest.mark.parametrize("host", ["page.example", "page.example:80", "10.0.0.1", "", "127.0.0.1.x"])
async def test_a_node_that_is_not_public_answers_to_its_own_names(door: Door, host: str) -> None:
    request = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"

    assert status_of(await exchange(door, request.encode())) == 421


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:5522", "127.9.9.9"]
)
async def test_every_name_of_this_machine_will_do(door: Door, host: str) -> None:
    request = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"

    assert status_of(await exchange(door, request.encode())) == 200


async def test_a_public_node_serves_pages_of_others(folder: Path) -> None:
    async with open_door(folder, is_public=True) as door:
        account = await door.account()

        write = await account.http.post("/s5/upload", content=b"x", headers=FOREIGN)
        named = await door.http.get("/health", headers={"Host": "s5.example"})
        preflight = await door.http.options(
            "/s5/upload",
            headers={
                **FOREIGN,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization",
            },
        )

        assert write.status_code == 200
        assert write.headers["access-control-allow-origin"] == "*"
        assert named.status_code == 200
        assert preflight.status_code == 200
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in preflight.headers


async def test_anonymous_calls_are_limited(folder: Path) -> None:
    limits = Limits(requests_per_second=0.01, request_burst=5)
    async with open_door(folder, limits=limits) as door:
        answers = [await door.http.get("/health") for _ in range(6)]
        junk = await door.http.get("/health", headers={"Authorization": "Bearer junk"})
        owner = [await door.owner.get("/health") for _ in range(10)]

        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert error_of(answers[-1]) == "too_many_requests"
        assert int(answers[-1].headers["retry-after"]) > 1
        assert junk.status_code == 429
        assert {answer.status_code for answer in owner} == {200}


async def test_registrations_are_limited_more(folder: Path) -> None:
    async with open_door(folder, limits=Limits(entries_per_second=0.01, entry_burst=4)) as door:
        answers = [await door.enter(secrets.token_bytes(32)) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert (await door.http.get("/health")).status_code == 200


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: -1",
        "Content-Length: 1e3",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Bad Header: x",
        "X: " + "a" * 100_000,
    ],
)
async def test_odd_framing_is_refused_or_unambiguous(door: Door, lines: str) -> None:
    token = door.owner.headers["authorization"]
    request = (
        f"POST /s5/upload HTTP/1.1\r\nHost: {door.authority}\r\nAuthorization: {token}\r\n"
        f"Connection: close\r\n{lines}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )

    answer = await exchange(door, request.encode())

    assert answer.count(b"HTTP/1.1 ") == 1
    assert status_of(answer) in {200, 400, 501}
    assert (await door.http.get("/health")).status_code == 200


async def test_authorization_twice(door: Door) -> None:
    account = await door.account()
    headers = [("Authorization", "Bearer junk"), ("Authorization", f"Bearer {account.token}")]

    answer = await door.http.get("/s5/account", headers=headers)

    assert answer.status_code == 401


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: "])
async def test_a_head_that_never_ends(
    door: Door, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.05)

    with anyio.fail_after(10):
        async with await connect(door) as stream:
            if sent:
                await stream.send(sent)
            assert await read_all(stream) == b""


async def test_a_second_head_that_never_ends(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.05)
    request = f"GET /health HTTP/1.1\r\nHost: {door.authority}\r\n\r\n".encode()

    with anyio.fail_after(10):
        async with await connect(door) as stream:
            await stream.send(request)
            answer = await stream.receive()
            await stream.send(b"GET /hea")
            answer += await read_all(stream)

    assert answer.count(b"HTTP/1.1 200") == 1
