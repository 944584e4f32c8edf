"""Uploads that wait for their portal, and survive everything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest
from sqlalchemy import Connection
from tests.integration.s5.portals.clients import LARGE, PATIENCE, SMALL, client_of
from tests.integration.s5.portals.faulty import FaultyPortal, open_faulty_portal
from tests.integration.s5.portals.raw_http import Cut, CutRequest, Stall, StallRequest, refuse
from tests.integration.s5.portals.upload_child import data_of

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ConfigError, NotFound
from fabstir.s5.portals import Backoff, Portal, open_upload_queue
from fabstir.s5.store import BlobStore, open_store

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ROOT = Path(__file__).resolve().parents[4]
MIB = 1024 * 1024
SOON = Backoff(first=0.001, most=0.01)
NEVER = Backoff(first=3000, most=3000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[BlobStore]:
    async with open_store(tmp_path / "store", NATIVE) as store:
        yield store


async def put(store: BlobStore, data: bytes) -> BlobId:
    return await store.put(data, owner="me", reason="file")


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.002)


async def test_what_is_queued_is_uploaded_at_once(
    faulty: FaultyPortal, portal: Portal, store: BlobStore
) -> None:
    async with open_upload_queue(store, [portal]) as queue:
        blobs = [await put(store, data) for data in (SMALL, LARGE, b"three")]
        for blob in blobs:
            await queue.enqueue(blob)
        await queue.wait_until_done()

        assert set(faulty.blobs) == {blob.multihash for blob in blobs}
        assert await queue.pending() == []


async def test_a_portal_that_comes_back_gets_everything(
    http_client: httpx.AsyncClient, store: BlobStore, faulty: FaultyPortal, portal: Portal
) -> None:
    faulty.fail("POST /s5/upload", *[refuse(503)] * 3, Cut(), Cut())

    async with open_upload_queue(store, [portal], unreachable=SOON) as queue:
        for data in (SMALL, b"two", b"three"):
            await queue.enqueue(await put(store, data))
        await queue.wait_until_done()

    assert set(faulty.blobs.values()) == {SMALL, b"two", b"three"}


async def test_while_a_portal_is_away_one_upload_at_a_time_tries_it(
    store: BlobStore, faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    portal = client_of(faulty, http_client, replace(PATIENCE, max_failures=1))
    blobs = [await put(store, bytes([n])) for n in range(20)]
    faulty.fail("POST /s5/upload", *[refuse(503)] * 50)

    async with open_upload_queue(store, [portal], unreachable=NEVER, workers=1) as queue:
        for blob in blobs:
            await queue.enqueue(blob)
        await until(lambda: len(faulty.requests) == 1)
        pending = await queue.pending()
        while not any(upload.attempts for upload in pending):
            pending = await queue.pending()

    assert len(faulty.requests) == 1
    failed = [upload for upload in pending if upload.attempts]
    assert len(pending) == 20
    assert "503" in failed[0].last_error
    assert not failed[0].is_running


async def test_what_is_queued_survives_the_end_and_its_resumption_too(
    store: BlobStore, faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    portal = client_of(faulty, http_client, replace(PATIENCE, max_failures=1))
    faulty.fail("PATCH", CutRequest(3 * MIB))
    blob = await put(store, LARGE)

    async with open_upload_queue(store, [portal], unreachable=NEVER) as queue:
        await queue.enqueue(blob)
        await until(lambda: len(faulty.server.paths("PATCH")) == 1)
        while not (await queue.pending())[0].attempts:
            pass
    async with open_upload_queue(store, [portal], unreachable=NEVER) as queue:
        await queue.enqueue(blob)  # due at once
        await queue.wait_until_done()

    assert faulty.blobs[blob.multihash] == LARGE
    assert len(faulty.requests[-1].body) == len(LARGE) - 3 * MIB


async def test_a_cancelled_upload_waits_again(
    store: BlobStore, faulty: FaultyPortal, portal: Portal
) -> None:
    faulty.fail("POST /s5/upload", Stall())
    blob = await put(store, SMALL)

    async with open_upload_queue(store, [portal]) as queue:
        await queue.enqueue(blob)
        await until(lambda: len(faulty.requests) == 1)
        assert (await queue.pending())[0].is_running
    async with open_upload_queue(store, [portal]) as queue:
        await queue.wait_until_done()

    assert faulty.blobs[blob.multihash] == SMALL


async def test_what_nobody_pins_any_more_is_not_uploaded(
    store: BlobStore, faulty: FaultyPortal, portal: Portal
) -> None:
    blob = await put(store, SMALL)
    faulty.fail("POST /s5/upload", refuse(503))

    async with open_upload_queue(store, [portal], unreachable=NEVER) as queue:
        await queue.enqueue(blob)
        await until(lambda: len(faulty.requests) == 1)
        while (await queue.pending())[0].is_running:
            pass
    await store.unpin("me", [blob.multihash])
    async with open_upload_queue(store, [portal], clock=lambda: 9e12) as queue:
        await queue.wait_until_done()

        assert len(faulty.requests) == 1
        with pytest.raises(NotFound, match="not pinned"):
            await queue.enqueue(blob)


async def test_each_portal_gets_its_copy_and_one_that_refuses_holds_up_nobody(
    store: BlobStore, faulty: FaultyPortal, portal: Portal, http_client: httpx.AsyncClient
) -> None:
    recorded: list[tuple[BlobId, str]] = []

    def on_stored(_: Connection, blob: BlobId, url: str) -> None:
        recorded.append((blob, url))

    async with open_faulty_portal() as full:
        full.fail("POST /s5/upload", *[refuse(507)] * 5)
        portals = [portal, client_of(full, http_client)]
        async with open_upload_queue(store, portals, on_stored=on_stored) as queue:
            blob = await put(store, SMALL)
            await queue.enqueue(blob)
            await until(lambda: bool(recorded) and len(full.requests) == 1)
            pending = await queue.pending()
            # `recorded` is told of inside the transaction that ends an upload: not seen yet, maybe.
            while len(pending) > 1 or not pending[0].attempts:
                pending = await queue.pending()
            backlog = await queue.backlog()

        assert recorded == [(blob, faulty.url)]
        assert [upload.portal for upload in pending] == [full.url]
        assert "no room left" in pending[0].last_error
        assert backlog == {full.url: (1, len(SMALL))}


async def test_a_clock_that_was_set_back_delays_nothing_for_long(
    store: BlobStore, faulty: FaultyPortal, portal: Portal
) -> None:
    blob = await put(store, SMALL)
    faulty.fail("POST /s5/upload", refuse(503))
    async with open_upload_queue(
        store, [portal], unreachable=NEVER, clock=lambda: 2_000_000_000.0
    ) as queue:
        await queue.enqueue(blob)
        await until(lambda: len(faulty.requests) == 1)
        while (await queue.pending())[0].is_running:
            pass

    async with open_upload_queue(store, [portal], clock=lambda: 1_000_000_000.0) as queue:
        await queue.wait_until_done()

    assert faulty.blobs[blob.multihash] == SMALL


async def test_a_portal_that_is_not_configured_is_named(
    store: BlobStore, faulty: FaultyPortal, portal: Portal
) -> None:
    blob = await put(store, SMALL)
    faulty.fail("POST /s5/upload", Stall())
    async with open_upload_queue(store, [portal]) as queue:
        await queue.enqueue(blob)
        with pytest.raises(ConfigError, match="not among"):
            await queue.enqueue(blob, ["https://other.example"])
    async with open_upload_queue(store, []) as queue:
        await queue.wait_until_done()
        pending = await queue.pending()

    assert "not configured any more" in pending[0].last_error


def start_child(folder: Path, url: str, size: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.s5.portals.upload_child", folder, url, str(size)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )


async def kill_while(faulty: FaultyPortal, folder: Path, size: int) -> None:
    """SIGKILL a process that hangs in the middle of a chunk."""
    num_chunks = len(faulty.server.paths("PATCH"))
    child = start_child(folder, faulty.url, size)
    try:
        await until(lambda: not faulty.server.faults["PATCH"])
        await until(lambda: len(faulty.server.paths("PATCH")) > num_chunks)
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    assert child.returncode == -9


async def finish(faulty: FaultyPortal, folder: Path, size: int) -> bytes:
    child = start_child(folder, faulty.url, size)
    output, _ = await anyio.to_thread.run_sync(child.communicate, None, 60)
    assert child.returncode == 0
    return output


def nothing(size: int) -> CutRequest:
    """A fault that is none, to let a chunk pass."""
    return CutRequest(size)


async def test_a_process_killed_in_mid_upload_goes_on_where_it_was(
    faulty: FaultyPortal, tmp_path: Path
) -> None:
    size, kept = 6 * MIB, 3 * MIB + 1
    faulty.fail("PATCH", StallRequest(kept))

    await kill_while(faulty, tmp_path / "store", size)
    before = len(faulty.requests)
    output = await finish(faulty, tmp_path / "store", size)

    assert output.splitlines() == [b"queued", b"done"]
    assert data_of(size) in faulty.blobs.values()
    assert sum(len(request.body) for request in faulty.requests[before:]) == size - kept


@pytest.mark.heavy
@pytest.mark.parametrize("kept", [0, 1, 256 * 1024, 5 * MIB, 8 * MIB - 1])
@pytest.mark.parametrize("chunk", [0, 1, 4])
async def test_a_process_killed_again_and_again_finishes(
    faulty: FaultyPortal, tmp_path: Path, chunk: int, kept: int
) -> None:
    size, num_kills = 40 * MIB, 3
    for _ in range(num_kills):
        faulty.fail("PATCH", *[nothing(size)] * (chunk // num_kills), StallRequest(kept))
        await kill_while(faulty, tmp_path / "store", size)

    output = await finish(faulty, tmp_path / "store", size)

    assert output.splitlines()[-1] == b"done"
    assert data_of(size) in faulty.blobs.values()
    num_sent = sum(len(request.body) for request in faulty.requests)
    assert num_sent == size
