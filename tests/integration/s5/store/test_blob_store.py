"""Putting, reading, pinning and collecting on a real disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.store.conftest import Clock
from tests.integration.s5.store.helpers import (
    LARGE,
    content,
    files,
    findings,
    get,
    joined,
    stream,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType, Multihash
from fabstir.primitives.errors import (
    BlobTooLarge,
    ConfigError,
    HashMismatch,
    NotFound,
    QuotaExceeded,
    StorageError,
    StorageFull,
)
from fabstir.s5.store import BlobStore, Collected, LocalBlobs, StoreUsage, open_store
from fabstir.s5.store.store import DEFAULT_GRACE_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SIZES = [0, 1, 1024, 131_071, 131_072, LARGE, 1 << 18, 1 << 20, (1 << 20) + 1, 5_000_000]


@pytest.mark.parametrize("size", SIZES)
async def test_what_went_in_comes_out(store: BlobStore, folder: Path, size: int) -> None:
    data = content(1, size)

    blob = await store.put(data, owner="a", reason="test")

    assert blob == BlobId(NATIVE.blake3(data), size)
    assert await get(store, blob) == data
    assert await joined(store.read(blob.multihash)) == data
    assert await store.size(blob.multihash) == size
    assert len(files(folder)) == (size >= 131_072)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1_000_000_000, 70_001])
async def test_a_stream_is_the_same_as_its_bytes(store: BlobStore, size: int, piece: int) -> None:
    data = content(2, size)
    pieces = [data[start : start + piece] for start in range(0, size, piece)]

    blob = await store.put(stream(pieces), owner="a", reason="test")

    assert blob == BlobId(NATIVE.blake3(data), size)
    assert await get(store, blob) == data


async def test_any_range_is_read(store: BlobStore) -> None:
    data = content(3, 1_500_000)
    blob = await store.put(data, owner="a", reason="test")
    small = await store.put(data[:100], owner="a", reason="test")
    edges = [0, 1, 262_143, 262_144, 262_145, 1_048_576, 1_499_999, 1_500_000, 2_000_000]

    for start, end in [*pairwise(edges), (0, None), (700_000, None), (5, 5), (1_500_000, None)]:
        assert await joined(store.read(blob.multihash, start, end)) == data[start:end]
        assert await joined(store.read(small.multihash, start, end)) == data[:100][start:end]

    with pytest.raises(ValueError, match="-1 to None is no range"):
        store.read(blob.multihash, -1)


async def test_the_same_bytes_are_stored_once(store: BlobStore, folder: Path) -> None:
    data = content(4, LARGE)

    blobs = [await store.put(data, owner=owner, reason="test") for owner in ("a", "a", "b")]

    assert len(set(blobs)) == 1
    assert len(files(folder)) == 1
    assert await store.usage() == StoreUsage(num_blobs=1, num_bytes=LARGE)
    assert (
        await store.usage("a") == await store.usage("b") == StoreUsage(num_blobs=1, num_bytes=LARGE)
    )


@pytest.mark.parametrize("size", [10, LARGE])
async def test_a_blob_is_found_by_its_sha256(store: BlobStore, size: int) -> None:
    data = content(5, size)
    name = Multihash(hashlib.sha256(data).digest(), HashType.SHA256)
    plain = await store.put(data, owner="a", reason="test")
    assert await store.size(name) is None

    blob = await store.put(data, owner="a", reason="test", expected=name)

    assert blob == BlobId(name.digest, size, HashType.SHA256)
    assert await get(store, name) == await get(store, plain) == data
    assert await joined(store.read(name)) == data
    assert (await store.usage("a")).num_blobs == 1


@pytest.mark.parametrize("kind", list(HashType))
@pytest.mark.parametrize("size", [10, LARGE])
async def test_other_bytes_than_announced_are_not_kept(
    store: BlobStore, folder: Path, size: int, kind: HashType
) -> None:
    announced = Multihash(b"\7" * 32, kind)

    with pytest.raises(HashMismatch, match=f"but {'07' * 32} was announced"):
        await store.put(content(6, size), owner="a", reason="test", expected=announced)

    assert files(folder) == []
    assert await store.usage() == StoreUsage(num_blobs=0, num_bytes=0)


@pytest.mark.parametrize("size", [10, LARGE, 3_000_000])
async def test_the_callers_limit_holds(store: BlobStore, folder: Path, size: int) -> None:
    data = content(7, size)

    with pytest.raises(BlobTooLarge, match=f"limit of {size - 1} bytes"):
        await store.put(stream([data]), owner="a", reason="test", max_bytes=size - 1)
    assert files(folder) == []

    blob = await store.put(stream([data]), owner="a", reason="test", max_bytes=size)
    with pytest.raises(BlobTooLarge):
        await store.get(blob.multihash, max_bytes=size - 1)


async def test_a_stream_that_breaks_leaves_nothing(store: BlobStore, folder: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield content(8, 3_000_000)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.put(broken(), owner="a", reason="test")

    assert files(folder) == []


async def test_a_cancelled_put_leaves_nothing(store: BlobStore, folder: Path) -> None:
    started = anyio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield content(9, 1 << 20)
            started.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: store.put(endless(), owner="a", reason="test"))
        await started.wait()
        tasks.cancel_scope.cancel()

    assert files(folder) == []
    assert (await store.usage()).num_blobs == 0


async def test_a_put_that_asyncio_cancels_leaves_no_file(folder: Path) -> None:
    """Other than anyio's, such a task does not wait for the thread that works for it."""
    async with open_store(folder, NATIVE) as store:
        for turns in range(0, 600, 15):
            data = content(turns, LARGE)
            task = asyncio.create_task(store.put(data, owner="a", reason="test"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    async with open_store(folder, NATIVE) as store:  # the last thread is done by now
        assert await findings(store) == []
        assert len(files(folder)) == (await store.usage("a")).num_blobs


async def test_a_missing_blob_is_named(store: BlobStore) -> None:
    missing = Multihash(b"\1" * 32)

    assert await store.size(missing) is None
    with pytest.raises(NotFound, match="no blob with the BLAKE3 0101"):
        await get(store, missing)
    with pytest.raises(NotFound):
        await joined(store.read(missing))
    with pytest.raises(NotFound):
        await store.pin("a", [missing], reason="test")


async def test_pins_name_owner_and_reason(store: BlobStore, clock: Clock) -> None:
    first = await store.put(b"first", owner="a", reason="why")
    clock.now += 5
    second = await store.put(b"second", owner="b", reason="because")
    await store.pin("a", [second.multihash, first.multihash], reason="later")

    seen = [(pin.owner, pin.blob, pin.reason, pin.created_at) async for pin in store.pins()]

    assert seen == [
        ("a", first, "why", 1_000_005.0),
        ("a", second, "later", 1_000_005.0),
        ("b", second, "because", 1_000_005.0),
    ]
    assert [pin.blob async for pin in store.pins("b")] == [second]
    assert [pin async for pin in store.pins("nobody")] == []


async def test_many_pins_come_in_pages(store: BlobStore) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(600):
            data = number.to_bytes(4, "big")
            owner = "ab"[number % 2]
            tasks.start_soon(lambda d=data, o=owner: store.put(d, owner=o, reason="test"))

    assert len({pin.blob async for pin in store.pins()}) == 600
    assert len({pin.blob async for pin in store.pins("a")}) == 300
    assert [name async for name, _usage in store.owners()] == ["a", "b"]


async def test_pinning_is_all_or_nothing(store: BlobStore) -> None:
    blob = await store.put(b"here", owner="a", reason="test")

    with pytest.raises(NotFound, match="b cannot pin 0101"):
        await store.pin("b", [blob.multihash, Multihash(b"\1" * 32)], reason="test")

    assert await store.usage("b") == StoreUsage(num_blobs=0, num_bytes=0)


async def test_an_owner_has_a_name(store: BlobStore) -> None:
    for owner in ("", "x" * 257):
        with pytest.raises(ValueError, match="is no owner"):
            await store.put(b"data", owner=owner, reason="test")


async def test_a_quota_holds_for_every_way_of_pinning(store: BlobStore, folder: Path) -> None:
    await store.set_quota("a", 1_000_000)
    foreign = await store.put(content(10, 700_000), owner="b", reason="test")
    mine = await store.put(content(11, 600_000), owner="a", reason="test")

    with pytest.raises(QuotaExceeded, match="a may store 1000000 bytes and would have 1100000"):
        await store.put(content(12, 500_000), owner="a", reason="test")
    with pytest.raises(QuotaExceeded, match="would have 1600001"):
        await store.put(stream([bytes(1_000_001)]), owner="a", reason="test")
    endless = stream([bytes(600_000)] * 1_000)
    with pytest.raises(QuotaExceeded, match="would have 2400000"):  # two blocks, and no more
        await store.put(endless, owner="a", reason="test")
    with pytest.raises(QuotaExceeded):
        await store.pin("a", [foreign.multihash], reason="test")
    assert await store.put(content(11, 600_000), owner="a", reason="again") == mine

    assert await store.usage("a") == StoreUsage(num_blobs=1, num_bytes=600_000, max_bytes=1_000_000)
    assert len(files(folder)) == 2
    await store.set_quota("a", None)
    await store.pin("a", [foreign.multihash], reason="test")


async def test_the_whole_store_has_a_limit(folder: Path, clock: Clock) -> None:
    async with open_store(folder, NATIVE, max_bytes=400_000, clock=clock) as store:
        blob = await store.put(content(13, LARGE), owner="a", reason="test")
        for size in (LARGE, 100_001, 500_000):
            with pytest.raises(StorageFull, match=r"may hold 400000 bytes .* s5.max_bytes"):
                await store.put(stream([content(14, size)]), owner="b", reason="test")
        assert len(files(folder)) == 1

        await store.unpin("a", [blob.multihash])
        await store.collect(grace_seconds=0)
        await store.put(content(14, LARGE), owner="b", reason="test")

        assert await store.usage() == StoreUsage(num_blobs=1, num_bytes=LARGE, max_bytes=400_000)


async def test_what_nobody_pins_is_collected_after_its_grace(
    store: BlobStore, folder: Path, clock: Clock
) -> None:
    kept = await store.put(content(15, LARGE), owner="a", reason="test")
    both = await store.put(content(16, LARGE), owner="a", reason="test")
    small = await store.put(b"small", owner="a", reason="test")
    await store.pin("b", [both.multihash], reason="test")
    await store.unpin("a", [kept.multihash, both.multihash, small.multihash])
    clock.now += DEFAULT_GRACE_SECONDS - 1

    assert await store.collect() == Collected(num_blobs=0, num_bytes=0)
    await store.pin("c", [kept.multihash], reason="just in time")
    clock.now += 1
    assert await store.collect() == Collected(num_blobs=1, num_bytes=5)

    assert await store.size(small.multihash) is None
    assert await get(store, kept) == content(15, LARGE)
    assert await get(store, both) == content(16, LARGE)
    await store.unpin("b", [both.multihash, both.multihash])
    assert await store.collect(grace_seconds=0) == Collected(num_blobs=1, num_bytes=LARGE)
    assert len(files(folder)) == 1
    assert await store.usage() == StoreUsage(num_blobs=1, num_bytes=LARGE)


async def test_many_are_collected_in_several_steps(store: BlobStore, folder: Path) -> None:
    blobs: list[BlobId] = []

    async def put(number: int) -> None:
        size = 131_072 if number % 10 == 0 else 10
        blobs.append(await store.put(content(number, size), owner="a", reason="test"))

    async with anyio.create_task_group() as tasks:
        for number in range(300):
            tasks.start_soon(put, number)
    await store.unpin("a", [blob.multihash for blob in blobs])

    collected = await store.collect(grace_seconds=0)

    assert collected == Collected(num_blobs=300, num_bytes=30 * 131_072 + 270 * 10)
    assert files(folder) == []


async def test_a_reader_finishes_although_its_blob_is_collected(store: BlobStore) -> None:
    data = content(17, 3_000_000)
    blob = await store.put(data, owner="a", reason="test")
    reading = aiter(store.read(blob.multihash))
    pieces = [await anext(reading)]

    await store.unpin("a", [blob.multihash])
    collected = await store.collect(grace_seconds=0)
    again = await store.put(content(18, 200_000), owner="a", reason="test")
    pieces += [piece async for piece in reading]

    assert collected.num_blobs == 1
    assert b"".join(pieces) == data
    assert await store.size(blob.multihash) is None
    assert await store.size(again.multihash) == 200_000


@pytest.mark.parametrize("size", [100, LARGE])
async def test_puts_pins_and_collections_of_one_blob_at_once(
    store: BlobStore, folder: Path, size: int
) -> None:
    data = content(19, size)
    name = Multihash(NATIVE.blake3(data))
    lost = 0

    async def keep_and_drop(owner: str) -> None:
        nonlocal lost
        for _ in range(15):
            await store.put(data, owner=owner, reason="test")
            lost += await get(store, name) != data
            await store.unpin(owner, [name])

    async def pin_and_drop() -> None:
        nonlocal lost
        for _ in range(40):
            try:
                await store.pin("pinner", [name], reason="test")
            except NotFound:
                continue
            lost += await get(store, name) != data
            await store.unpin("pinner", [name])

    async def collect() -> None:
        for _ in range(40):
            await store.collect(grace_seconds=0)

    async with anyio.create_task_group() as tasks:
        for owner in ("a", "b", "c"):
            tasks.start_soon(keep_and_drop, owner)
        tasks.start_soon(pin_and_drop)
        tasks.start_soon(collect)

    assert lost == 0
    await store.collect(grace_seconds=0)
    assert files(folder) == []
    assert await store.usage() == StoreUsage(num_blobs=0, num_bytes=0)


async def test_files_are_their_owners_alone(store: BlobStore, folder: Path) -> None:
    await store.put(content(20, LARGE), owner="a", reason="test")

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in files(folder)] == [0o600]


async def test_one_process_has_a_store(store: BlobStore, folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        async with open_store(folder, NATIVE):
            pass


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="cannot be used: Not a directory"):
        async with open_store(tmp_path / "file" / "s5", NATIVE):
            pass


async def test_a_start_removes_what_was_half_written(folder: Path) -> None:
    async with open_store(folder, NATIVE) as store:
        blob = await store.put(content(21, LARGE), owner="a", reason="test")
    (folder / "tmp" / "0123").write_bytes(b"half")

    async with open_store(folder, NATIVE) as store:
        assert len(files(folder)) == 1
        assert await get(store, blob) == content(21, LARGE)


async def test_an_owners_view(store: BlobStore) -> None:
    blobs = LocalBlobs(store, "mine")

    blob = await blobs.put(stream([b"some", b"thing"]), reason="file")

    assert await blobs.get(blob.multihash, max_bytes=100) == b"something"
    assert await joined(blobs.read(blob, 4)) == b"thing"
    assert [pin.owner async for pin in store.pins()] == ["mine"]
    await blobs.release([blob.multihash])
    assert (await store.usage("mine")).num_blobs == 0
