"""Request targets in every form of RFC 9112, and OPTIONS: what is valid HTTP is answered."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.door.door import Door, open_door
from tests.integration.s5.door.raw import exchange, head, status_of
from websockets.asyncio.client import connect as connect_websocket

from fabstir.telemetry.metrics import MetricsRegistry, open_metrics_server

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.mark.parametrize("scheme", ["http", "HTTP", "https"])
async def test_absolute_form(door: Door, scheme: str) -> None:
    answer = await exchange(door, head("GET", f"{scheme}://{door.authority}/s5/health", door))

    assert status_of(answer) == 200


async def test_absolute_form_of_a_blob_with_its_query(door: Door) -> None:
    stored = await door.owner.put("/s5/fs/a%20b/c.txt", content=b"content")
    assert stored.is_success

    token = door.owner.headers["Authorization"]
    url = f"http://{door.authority}/s5/fs/a%20b?limit=1"
    answer = await exchange(door, head("GET", url, door, f"Authorization: {token}"))

    assert status_of(answer) == 200
    assert [entry["name"] for entry in json.loads(answer.partition(b"\r\n\r\n")[2])["entries"]]


async def test_a_proxy_of_curl(door: Door) -> None:
    """`curl -x http://127.0.0.1:5522 http://127.0.0.1:5522/s5/health`."""
    with anyio.fail_after(20):
        done = await anyio.run_process(
            ["curl", "-sS", "-x", f"http://{door.authority}", f"http://{door.authority}/s5/health"]
        )

    assert json.loads(done.stdout)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://evil.example/s5/health", 421),
        ("http://user@127.0.0.1/s5/health", 400),
        ("http:///s5/health", 400),
        ("ftp://127.0.0.1/s5/health", 400),
        ("s5/health", 400),
    ],
)
async def test_what_is_for_another_server_or_for_none(door: Door, target: str, status: int) -> None:
    assert status_of(await exchange(door, head("GET", target, door))) == status


async def test_the_host_of_the_target_counts_and_not_the_header(door: Door) -> None:
    request = (
        f"GET http://{door.authority}/s5/health HTTP/1.1\r\nHost: evil.example\r\n"
        "Connection: close\r\n\r\n"
    )

    assert status_of(await exchange(door, request.encode())) == 200


async def test_asterisk_form(door: Door) -> None:
    assert status_of(await exchange(door, head("OPTIONS", "*", door))) == 204


@pytest.mark.parametrize("path", ["/s5/fs", "/s5/fs/a/b", "/s5/registry", "/s5/health"])
async def test_options_says_what_there_is(door: Door, path: str) -> None:
    answer = await door.http.options(path)

    assert answer.status_code == 204
    assert "GET" in answer.headers["Allow"]


async def test_a_websocket_by_its_absolute_url(door: Door) -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = (
        f"GET http://{door.authority}/s5/p2p HTTP/1.1\r\nHost: {door.authority}\r\n"
        f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\n\r\n"
    )
    host, _, port = door.authority.rpartition(":")
    with anyio.fail_after(20):
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await stream.send(upgrade.encode())
            answer = await stream.receive()
        async with connect_websocket(f"ws://{door.authority}/s5/p2p", proxy=None):
            pass

    assert status_of(answer) == 101


async def test_metrics_take_the_absolute_form(tmp_path: Path) -> None:
    registry = MetricsRegistry()
    async with open_metrics_server(registry, 0) as port:
        url = f"http://127.0.0.1:{port}"

        def look() -> bytes:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": url}))
            with opener.open(f"{url}/metrics", timeout=20) as response:
                return bytes(response.read())

        assert b"# HELP" in await anyio.to_thread.run_sync(look)


async def test_the_nodes_own_url_decides_where_an_upload_is(tmp_path: Path) -> None:
    async with open_door(tmp_path, public_url="https://s5.example") as door:
        created = await door.owner.post(
            "/s5/upload/tus", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "10"}
        )

        assert created.headers["Location"].startswith("https://s5.example/s5/upload/tus/")


async def test_without_one_the_request_does(door: Door) -> None:
    created = await door.owner.post(
        "/s5/upload/tus", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "10"}
    )

    assert created.headers["Location"].startswith(f"http://{door.authority}/s5/upload/tus/")
