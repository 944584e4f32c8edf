"""Registry entries: the newest one that its key signed, and proof of every fork."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.store.conftest import Clock

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RegistryFull, RemoteProtocolError, WriteConflict
from fabstir.s5.formats.limits import MAX_REVISION
from fabstir.s5.formats.registry import SignedEntry, sign_entry
from fabstir.s5.store import BlobStore, LocalRegistry, _newest, open_store

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SEED = b"\5" * 32
KEY = NATIVE.ed25519_public_key(SEED)


def entry(revision: int, data: bytes) -> SignedEntry:
    return sign_entry(SEED, revision, data, NATIVE)


@pytest.fixture
def registry(store: BlobStore, clock: Clock) -> LocalRegistry:
    return LocalRegistry(store, NATIVE, clock=clock)


async def test_the_newest_entry_comes_back(registry: LocalRegistry) -> None:
    assert await registry.get(KEY) is None

    await registry.set(entry(0, b"zero"))
    await registry.set(entry(7, b"seven"))
    await registry.set(entry(MAX_REVISION, b"x" * 64))

    assert await registry.get(KEY) == entry(MAX_REVISION, b"x" * 64)
    assert await registry.get(b"\1" * 32) is None


async def test_an_entry_survives_a_restart(folder: Path) -> None:
    async with open_store(folder, NATIVE) as store:
        await LocalRegistry(store, NATIVE).set(entry(1, b"kept"))

    async with open_store(folder, NATIVE) as store:
        assert await LocalRegistry(store, NATIVE).get(KEY) == entry(1, b"kept")


async def test_the_same_entry_again_is_no_conflict(registry: LocalRegistry) -> None:
    await registry.set(entry(3, b"data"))

    await registry.set(entry(3, b"data"))

    assert await registry.forks(KEY) == []


async def test_a_replayed_older_entry_is_refused(registry: LocalRegistry) -> None:
    await registry.set(entry(3, b"old"))
    await registry.set(entry(5, b"new"))

    with pytest.raises(WriteConflict, match="revision 5 is here, and 3 was given"):
        await registry.set(entry(3, b"old"))

    assert await registry.get(KEY) == entry(5, b"new")


async def test_a_fork_is_refused_and_proven(registry: LocalRegistry) -> None:
    first, second = entry(5, b"one side"), entry(5, b"the other side")
    await registry.set(first)

    with pytest.raises(WriteConflict):
        await registry.set(second)
    with pytest.raises(WriteConflict) as caught:
        await registry.set(second)

    text = str(caught.value)
    assert "its key signed revision 5 twice" in text
    assert b"one side".hex() in text
    assert b"the othe".hex() in text
    assert await registry.get(KEY) == first
    forks = await registry.forks(KEY)
    assert forks == [first, second]
    for side in forks:
        side.verify(NATIVE)
    await registry.set(entry(6, b"after it"))
    assert await registry.forks(KEY) == [first, second]


async def test_evidence_is_bounded(registry: LocalRegistry) -> None:
    await registry.set(entry(1, b"first"))

    for number in range(30):
        with pytest.raises(WriteConflict):
            await registry.set(entry(1, bytes([number])))

    assert len(await registry.forks(KEY)) == 16


async def test_strangers_have_a_limit(store: BlobStore) -> None:
    registry = LocalRegistry(store, NATIVE, max_entries=2)
    seeds = [bytes([number]) * 32 for number in (1, 2, 3)]
    for seed in seeds[:2]:
        await registry.set(sign_entry(seed, 1, b"first", NATIVE))

    with pytest.raises(RegistryFull, match=r"of 2 keys .*s5\.max_registry_entries"):
        await registry.set(sign_entry(seeds[2], 1, b"first", NATIVE))

    await registry.set(sign_entry(seeds[0], 2, b"second", NATIVE))
    await LocalRegistry(store, NATIVE).set(sign_entry(seeds[2], 1, b"first", NATIVE))


@pytest.mark.parametrize(
    "change",
    [
        {"signature": bytes(64)},
        {"data": b"other"},
        {"revision": 2},
        {"revision": MAX_REVISION + 1},
        {"revision": -1},
        {"data": b"x" * 65},
        {"public_key": b"\1" * 32},
        {"public_key": b"short"},
    ],
)
async def test_what_its_key_did_not_sign_is_refused(
    registry: LocalRegistry, change: dict[str, bytes | int]
) -> None:
    forged = replace(entry(1, b"data"), **change)  # pyright: ignore[reportArgumentType] - one of several fields

    with pytest.raises(RemoteProtocolError):
        await registry.set(forged)

    assert await registry.get(forged.public_key) is None


async def test_of_many_writers_one_wins_each_revision(registry: LocalRegistry) -> None:
    refused = 0

    async def write(number: int) -> None:
        nonlocal refused
        try:
            await registry.set(entry(1, bytes([number])))
        except WriteConflict:
            refused += 1

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(write, number)

    assert refused == 19
    assert await registry.get(KEY) == entry(1, b"\0")


async def test_what_one_sets_another_of_the_same_store_sees_at_once(store: BlobStore) -> None:
    one, other = LocalRegistry(store, NATIVE), LocalRegistry(store, NATIVE)
    assert await other.get(KEY) is None

    for revision in range(20):
        await one.set(entry(revision, b"data"))
        assert await other.get(KEY) == entry(revision, b"data")


async def test_a_set_whose_caller_was_cancelled_is_seen_all_the_same(
    registry: LocalRegistry,
) -> None:
    await registry.set(entry(1, b"data"))
    assert await registry.get(KEY) == entry(1, b"data")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await registry.set(entry(2, b"data"))

    with pytest.raises(WriteConflict):  # behind it in the queue
        await registry.set(entry(0, b"data"))
    assert await registry.get(KEY) == entry(2, b"data")


async def test_what_is_read_while_sets_go_on_is_never_older_than_what_was_acknowledged(
    registry: LocalRegistry,
) -> None:
    acknowledged = -1

    async def read() -> None:
        while acknowledged < 99:
            at_least = acknowledged
            found = await registry.get(KEY)
            assert (found.revision if found else -1) >= at_least

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(read)
        for revision in range(100):
            await registry.set(entry(revision, b"data"))
            acknowledged = revision


async def test_keys_that_were_not_asked_for_lately_come_from_the_database(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_newest, "_MAX_KEYS", 2)
    seeds = [bytes([number]) * 32 for number in range(6)]
    entries = [sign_entry(seed, 1, seed[:1], NATIVE) for seed in seeds]

    for one in entries:
        await registry.set(one)

    assert [await registry.get(one.public_key) for one in entries] == entries
