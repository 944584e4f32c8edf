"""The client against our own node's portal, over wires that are far or break."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from bench.s5_portal import measure, table
from bench.s5_wire import Wire, open_wire
from tests.integration.s5.door.door import Door, open_door
from tests.integration.s5.portals.clients import LARGE, PATIENCE, SMALL, pieces

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import NotFound, PortalRefused, WriteConflict
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.registry import sign_entry
from fabstir.s5.portals import (
    AccountFile,
    Portal,
    PortalHttp,
    PortalPool,
    open_upload_queue,
    sign_in,
    spooled_source,
)
from fabstir.s5.store import open_store

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

IDENTITY = Identity(bytes(range(16)), NATIVE)
MIB = 1024 * 1024


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Door]:
    async with open_door(tmp_path_factory.mktemp("own"), account_bytes=64 * MIB) as door:
        yield door


@dataclass(frozen=True, slots=True)
class Reached:
    """The node's portal, over a wire and with an account."""

    portal: Portal
    wire: Wire
    door: Door


@pytest.fixture
async def reached(
    door: Door, http_client: httpx.AsyncClient, tmp_path: Path
) -> AsyncGenerator[Reached]:
    direct = PortalHttp(door.url, http_client, patience=PATIENCE)
    file = AccountFile(tmp_path / "accounts.json")
    session = await sign_in(direct, IDENTITY, file, random_bytes=secrets.token_bytes)
    async with open_wire(int(door.url.rpartition(":")[2])) as wire:
        http = PortalHttp(wire.url, http_client, patience=PATIENCE)
        yield Reached(Portal(http, NATIVE, session), wire, door)


async def test_blobs_go_up_come_back_and_are_forgotten(reached: Reached) -> None:
    portal = reached.portal
    before = await portal.stats()

    blob = await portal.upload(SMALL)
    during = await portal.stats()
    data = await portal.get(blob.multihash, max_bytes=100)
    locations = await portal.locations(blob.multihash)
    await portal.unpin(blob.multihash)
    after = await portal.stats()
    await portal.pin(blob)

    assert data == SMALL
    assert len(locations) == 1
    assert before.used_bytes is not None
    assert during.used_bytes == before.used_bytes + len(SMALL)
    assert after.used_bytes == before.used_bytes
    assert during.limit_bytes == 64 * MIB
    with pytest.raises(NotFound):
        await portal.get(BlobId(bytes(32), 1).multihash, max_bytes=10)


async def test_a_long_blob_survives_a_cut_connection(reached: Reached) -> None:
    reached.wire.cut_after = 3 * MIB
    seen: list[int] = []

    async with spooled_source(pieces(LARGE)) as source:
        blob = await reached.portal.upload(source, on_progress=lambda done, _: seen.append(done))

    assert reached.wire.num_cuts == 1
    assert await reached.door.store.get(blob.multihash, max_bytes=len(LARGE)) == LARGE
    assert seen[-1] == len(LARGE)
    assert await reached.portal.upload(LARGE) == blob  # 409: it is there already


async def test_parts_of_a_long_blob_are_verified_by_groups(reached: Reached) -> None:
    data = LARGE[::-1]
    blob = await reached.portal.upload(data)

    tree = await reached.portal.tree(blob)
    part = b"".join([piece async for piece in reached.portal.read(blob, 1_000_000, 1_000_100)])
    pool = PortalPool([reached.portal], NATIVE)
    whole = b"".join([piece async for piece in pool.read(blob)])

    assert tree is not None
    assert part == data[1_000_000:1_000_100]
    assert whole == data


async def test_registry_entries_are_published_and_refused(reached: Reached) -> None:
    seed = secrets.token_bytes(32)
    entry = sign_entry(seed, 5, b"pointer", NATIVE)

    nothing = await reached.portal.get_entry(entry.public_key)
    await reached.portal.set_entry(entry)
    await reached.portal.set_entry(entry)

    assert nothing is None
    assert await reached.portal.get_entry(entry.public_key) == entry
    with pytest.raises(WriteConflict):
        await reached.portal.set_entry(sign_entry(seed, 4, b"older", NATIVE))


async def test_a_quota_is_refused_by_name(reached: Reached) -> None:
    async def zeros() -> AsyncGenerator[bytes]:
        for _ in range(65):
            yield bytes(MIB)

    with pytest.raises(PortalRefused, match="no room"):
        async with spooled_source(zeros()) as source:
            await reached.portal.upload(source)


async def test_the_queue_brings_everything_to_our_own_node(
    reached: Reached, tmp_path: Path
) -> None:
    reached.wire.cut_after = MIB
    async with (
        open_store(tmp_path / "store", NATIVE) as store,
        open_upload_queue(store, [reached.portal]) as queue,
    ):
        blobs = [
            await store.put(data, owner="me", reason="file")
            for data in (b"queued", LARGE[1:], LARGE[2:])
        ]
        for blob in blobs:
            await queue.enqueue(blob)
        await queue.wait_until_done()

    for blob in blobs:
        assert await reached.door.store.size(blob.multihash) == blob.size


async def test_put_and_get_of_a_small_blob_take_one_round_trip() -> None:
    round_trip = 0.2

    rows = await measure(3, round_trip)

    # The fastest of three, so that a busy machine does not decide.
    assert all(round_trip <= row.seconds[0] < 1.9 * round_trip for row in rows), table(rows)
