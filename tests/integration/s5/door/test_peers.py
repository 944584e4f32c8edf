"""/s5/p2p: two nodes that find each other's blobs through their doors."""

from __future__ import annotations

import secrets
from pathlib import Path

import anyio
import httpx
import pytest
from tests.integration.s5.door.door import Door
from tests.integration.s5.door.raw import exchange, head, status_of
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.s5.peers import open_peers
from fabstir.s5.store import LocalRegistry, open_store

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


async def test_a_peer_finds_and_fetches(door: Door, tmp_path: Path) -> None:
    data = secrets.token_bytes(300_000)
    answer = await door.owner.post("/s5/upload", content=data)
    blob = BlobId.decode(answer.json()["cid"])
    url = f"ws://{door.authority}/s5/p2p"

    async with open_store(tmp_path / "other", NATIVE) as store:

        async def offer(_blob: object) -> None:
            return None

        async with open_peers(
            [url],
            node_key=secrets.token_bytes(32),
            crypto=NATIVE,
            offer=offer,
            entries=LocalRegistry(store, NATIVE),
        ) as peers:
            with anyio.fail_after(20):
                while not (locations := await peers.find(blob.multihash)):
                    await anyio.sleep(0.01)
            assert await peers.get(blob.multihash, max_bytes=1 << 20) == data

    assert locations[0].parts == (f"{door.url}/s5/blob/{BlobId(blob.digest, 0).encode('z')}",)


@pytest.mark.parametrize("message", ["text", b"\xff" * 100, b"", b"\xc1"])
async def test_a_peer_that_breaks_a_rule_is_dropped(door: Door, message: str | bytes) -> None:
    async with connect(f"ws://{door.authority}/s5/p2p") as socket:
        await socket.send(message)

        with pytest.raises(ConnectionClosed), anyio.fail_after(10):
            while True:
                await socket.recv()

    assert (await door.http.get("/health")).status_code == 200


@pytest.mark.parametrize("frame", [b"\x82\xff\x7f" + b"\xff" * 7, b"\x8f\x80" + bytes(4), b""])
async def test_whoever_breaks_off_leaves_no_traceback(
    door: Door, caplog: pytest.LogCaptureFixture, frame: bytes
) -> None:
    """A frame of 2^63 bytes, an opcode that there is not, and a connection that is cut."""
    async with connect(f"ws://{door.authority}/s5/p2p") as socket:
        await socket.recv()
        if frame:
            socket.transport.write(frame)
            with anyio.fail_after(10):
                await socket.wait_closed()
        else:
            socket.transport.abort()

    assert (await door.http.get("/health")).status_code == 200
    await anyio.wait_all_tasks_blocked()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_foreign_pages_are_no_peers(door: Door) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(f"ws://{door.authority}/s5/p2p", origin=Origin("https://page.example")):
            pass

    assert caught.value.response.status_code == 403


async def test_it_is_a_websocket(door: Door) -> None:
    answer: httpx.Response = await door.http.get("/s5/p2p")

    assert answer.status_code == 404
    assert status_of(await exchange(door, head("POST", "/s5/p2p", door))) == 404
