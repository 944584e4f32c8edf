"""SIGKILL in the middle of a resumable upload: what was acknowledged is there afterwards."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import anyio
import httpx
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from tests.integration.s5.door.door import Door, blob_of, open_door
from tests.integration.s5.door.test_tus import TUS, begin, metadata_of, offset_of, send

from fabstir.crypto import NATIVE
from fabstir.s5.store import open_store
from fabstir.s5.tables.tus import advance_upload

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Running:
    """A node in a process of its own, and its owner's client."""

    process: Process
    http: httpx.AsyncClient

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[Running]:
    command = [sys.executable, "-m", "tests.integration.s5.door.serve_process", str(folder)]
    root = Path(__file__).parents[4]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    async with await anyio.open_process(command, cwd=root, env=environment, stderr=None) as process:
        try:
            assert process.stdout is not None
            with anyio.fail_after(30):
                line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1000)
            url, token = line.decode().split()
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(
                base_url=url, headers=headers, trust_env=False, timeout=20
            ) as http:
                yield Running(process, http)
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def until_acknowledged(node: Running, path: str, offset: int) -> None:
    with suppress(httpx.TransportError), anyio.fail_after(20):  # it may be dead already
        while await offset_of(node.http, path) < offset:
            await anyio.sleep(0)


async def send_until_killed(
    node: Running, path: str, data: bytes, start: int, end: int, *, min_offset: int = 0
) -> None:
    """Send from `start` on; kill the server once the bytes up to `end` are on their way, and those
    up to `min_offset` acknowledged."""

    async def pieces() -> AsyncIterator[bytes]:
        for position in range(start, len(data), PIECE_BYTES):
            if position >= end:
                await until_acknowledged(node, path, min_offset)
                await node.kill()
            yield data[position : position + PIECE_BYTES]

    with suppress(httpx.TransportError):
        await send(node.http, path, start, pieces())
    await node.kill()


async def finish(door: Door, path: str, data: bytes) -> int:
    """Go on at what was acknowledged; returns how much that was."""
    offset = await offset_of(door.owner, path)
    answer = await send(door.owner, path, offset, data[offset:])
    assert answer.status_code == 204
    assert answer.headers["upload-cid"] == blob_of(data).encode("z")
    assert (await door.http.get(f"/s5/blob/{blob_of(data).encode('z')}")).content == data
    return offset


async def test_uploads_survive_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    running_one, whole_one = secrets.token_bytes(3 << 20), secrets.token_bytes(100_000)
    async with running(folder) as node:
        whole = path_of(await begin(node.http, len(whole_one), metadata_of(whole_one)))
        await send(node.http, whole, 0, whole_one[:-1])
        path = path_of(await begin(node.http, len(running_one), metadata_of(running_one)))
        assert (await send(node.http, path, 0, running_one[:400_000])).status_code == 204
        await send_until_killed(node, path, running_one, 400_000, 2 << 20, min_offset=1 << 20)
    stray = folder / "uploads" / "stray"
    stray.write_bytes(b"of an upload that nobody knows")
    await complete_by_hand(folder, whole, whole_one)

    async with open_door(folder) as door:
        assert await finish(door, path, running_one) >= 1 << 20
        with anyio.fail_after(20):
            status = await door.owner.head(whole, headers=TUS)
            while "upload-cid" not in status.headers:
                status = await door.owner.head(whole, headers=TUS)
        cid = blob_of(whole_one).encode("z")
        assert status.headers["upload-cid"] == cid
        assert (await door.http.get(f"/s5/blob/{cid}")).content == whole_one
        assert list((folder / "uploads").iterdir()) == []


def path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]


async def complete_by_hand(folder: Path, path: str, data: bytes) -> None:
    """The state between the last byte and the blob: all is flushed and acknowledged."""
    name = path.rpartition("/")[2]
    (folder / "uploads" / name).write_bytes(data)
    async with open_store(folder / "store", NATIVE) as store:
        await store.db.write(
            lambda db: advance_upload(db, name, offset=len(data), expires_at=1 << 33),
            durable=True,
        )


@pytest.mark.heavy
async def test_uploads_survive_kills_anywhere(tmp_path: Path) -> None:
    random = Random(5)
    for case in range(25):
        folder = tmp_path / str(case)
        data = random.randbytes(random.randrange(1 << 20, 6 << 20))
        async with running(folder) as node:
            path = path_of(await begin(node.http, len(data), metadata_of(data)))
            await send_until_killed(node, path, data, 0, random.randrange(len(data)))
        async with open_door(folder) as door:
            await finish(door, path, data)
