"""What a file system does when its store or its registry fails in the middle of something."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from pathlib import Path

import pytest
from tests.integration.s5.fs.conftest import OWNER

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import (
    AccessDenied,
    CorruptBlob,
    NotFound,
    PortalUnavailable,
    QuotaExceeded,
    StorageError,
    WriteConflict,
)
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.limits import MAX_REVISION
from fabstir.s5.formats.registry import SignedEntry, blob_pointer, sign_entry
from fabstir.s5.fs import FileSystem, open_tree
from fabstir.s5.fs.snapshots import index_of
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


class Failing(LocalBlobs):
    """A store that refuses some writes, or to let go of anything."""

    fails_on = ""
    """Reasons that end so are refused."""
    keeps = False

    async def put(
        self, data: bytes | AsyncIterable[bytes], *, reason: str, may_use_reserve: bool = False
    ) -> BlobId:
        if self.fails_on and reason.endswith(self.fails_on):
            raise StorageError("the disk fails")
        return await super().put(data, reason=reason)

    async def release(self, blobs: Iterable[Multihash]) -> None:
        if self.keeps:
            raise StorageError("the disk fails")
        await super().release(blobs)


@pytest.fixture
def failing(store: BlobStore) -> Failing:
    return Failing(store, OWNER)


async def pinned(store: BlobStore) -> set[bytes]:
    return {pin.blob.digest async for pin in store.pins(OWNER)}


@pytest.mark.parametrize("size", [100, 300_000], ids=["short", "long"])
async def test_a_directory_that_cannot_be_stored_leaves_what_was_there(
    failing: Failing,
    registry: LocalRegistry,
    root: Capability,
    store: BlobStore,
    other: FileSystem,
    size: int,
) -> None:
    fs = FileSystem(failing, registry, root, NATIVE)
    await fs.put("d/f", b"before")
    before = await pinned(store)
    failing.fails_on = ":directory"

    with pytest.raises(StorageError, match="the disk fails"):
        await fs.put("d/f", bytes(size))
    with pytest.raises(StorageError, match="the disk fails"):
        async with fs.batch() as batch:
            await batch.put("new/g", bytes(size))

    assert await other.get("d/f", 10) == b"before"
    assert not await other.exists("new")
    assert await pinned(store) == before
    failing.fails_on = ""
    await fs.put("d/f", b"after")
    assert await other.get("d/f", 10) == b"after"


async def test_a_full_quota_leaves_what_was_there_and_deleting_makes_room(
    fs: FileSystem, other: FileSystem, store: BlobStore
) -> None:
    await fs.put("d/f", b"before")
    await fs.put("d/large", bytes(200_000))
    before = await pinned(store)
    await store.set_quota(OWNER, (await store.usage(OWNER)).num_bytes + 1000)

    with pytest.raises(QuotaExceeded):
        await fs.put("d/f", bytes(100_000))

    assert await other.get("d/f", 10) == b"before"
    assert await pinned(store) == before


async def test_what_cannot_be_released_does_not_fail_what_is_durable(
    failing: Failing,
    registry: LocalRegistry,
    root: Capability,
    store: BlobStore,
    other: FileSystem,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fs = FileSystem(failing, registry, root, NATIVE, max_versions=0)
    first = await fs.put("d/f", b"first")
    failing.keeps = True

    await fs.put("d/f", b"second")
    await fs.delete("d", recursive=True)

    assert not await other.exists("d")
    assert "old blobs stay until the next vacuum" in caplog.text
    assert BlobId.decode(first.cid).digest in await pinned(store)
    failing.keeps = False
    await fs.vacuum(store.pins(OWNER), min_age=-60)
    assert BlobId.decode(first.cid).digest not in await pinned(store)


async def test_while_the_index_of_snapshots_cannot_be_read_nothing_is_released(
    blobs: LocalBlobs, registry: LocalRegistry, root: Capability, store: BlobStore
) -> None:
    fs = FileSystem(blobs, registry, root, NATIVE, max_versions=0)
    first = await fs.put("f", b"first")
    index = index_of(root, NATIVE)
    assert index.write_key is not None
    lost = blob_pointer(Multihash(bytes(32)))
    await registry.set(sign_entry(index.write_key, 1, lost, NATIVE))
    fresh = FileSystem(blobs, registry, root, NATIVE, max_versions=0)

    await fresh.put("f", b"second")

    assert await fresh.get("f", 10) == b"second"
    assert BlobId.decode(first.cid).digest in await pinned(store)
    with pytest.raises((CorruptBlob, NotFound)):
        await fresh.vacuum(store.pins(OWNER), min_age=-60)
    assert BlobId.decode(first.cid).digest in await pinned(store)


async def test_a_snapshot_that_was_broken_off_keeps_blobs_only_until_a_vacuum(
    failing: Failing, registry: LocalRegistry, root: Capability, store: BlobStore
) -> None:
    fs = FileSystem(failing, registry, root, NATIVE, max_versions=0)
    first = await fs.put("d/f", b"first")

    class Broken(Failing):
        """Fails at the second directory: the first is the index, which says what was begun."""

        num_puts = 0

        async def put(
            self, data: bytes | AsyncIterable[bytes], *, reason: str, may_use_reserve: bool = False
        ) -> BlobId:
            self.num_puts += 1
            if self.num_puts == 2:
                raise StorageError("the disk fails")
            return await super().put(data, reason=reason)

    with pytest.raises(StorageError, match="the disk fails"):
        await FileSystem(Broken(store, OWNER), registry, root, NATIVE).snapshot("d")

    assert await fs.snapshots() == ()
    await fs.put("d/f", b"second")
    assert BlobId.decode(first.cid).digest in await pinned(store)
    await fs.vacuum(store.pins(OWNER), min_age=-60)
    assert BlobId.decode(first.cid).digest not in await pinned(store)
    third = await fs.put("d/f", b"third")
    await fs.put("d/f", b"fourth")
    assert BlobId.decode(third.cid).digest not in await pinned(store)


async def test_a_snapshot_leaves_what_was_mounted_where_it_is(
    fs: FileSystem, blobs: LocalBlobs, registry: LocalRegistry
) -> None:
    await fs.put("shared/f", b"theirs, before")
    await fs.put("home/g", b"ours, before")
    await fs.mount("home/theirs", await fs.share("shared"))

    kept = await fs.snapshot("home")
    await fs.put("shared/f", b"theirs, after")
    await fs.put("home/g", b"ours, after")

    tree = open_tree(kept.capability, blobs, registry, NATIVE)
    assert await tree.get("g", 20) == b"ours, before"
    assert await tree.get("theirs/f", 20) == b"theirs, after"


async def test_the_last_revision_is_the_last(
    fs: FileSystem, blobs: LocalBlobs, registry: LocalRegistry, root: Capability
) -> None:
    await fs.put("f", b"1")
    newest = await registry.get(root.cid.link)
    assert newest is not None
    assert root.write_key is not None
    await registry.set(sign_entry(root.write_key, MAX_REVISION, newest.data, NATIVE))
    fresh = FileSystem(blobs, registry, root, NATIVE)

    with pytest.raises(StorageError, match="last revision"):
        await fresh.put("f", b"2")

    assert await fresh.get("f", 10) == b"1"


async def test_who_may_only_read_writes_nothing(
    fs: FileSystem, blobs: LocalBlobs, registry: LocalRegistry, store: BlobStore
) -> None:
    await fs.put("theirs/f", b"1")
    await fs.mount("home/theirs", await fs.share("theirs"))
    before = await pinned(store)

    for attempt in (
        fs.put("home/theirs/f", b"2"),
        fs.put("home/theirs/new/f", b"2"),
        fs.delete("home/theirs/f"),
        fs.make_directory("home/theirs/new"),
        fs.move("home/theirs/f", "home/f"),
        fs.share("home/theirs", is_writable=True),
    ):
        with pytest.raises(AccessDenied):
            await attempt

    assert await fs.get("theirs/f", 10) == b"1"
    assert before - await pinned(store) == set()


async def test_a_writer_that_is_never_first_is_told_so(
    blobs: LocalBlobs, store: BlobStore, root: Capability, fs: FileSystem, other: FileSystem
) -> None:
    await fs.put("f", b"1")

    class Busy(LocalRegistry):
        """Somebody else writes before each of our entries arrives."""

        num_lost = 0

        async def set(self, entry: object) -> None:
            self.num_lost += 1
            raise WriteConflict("an entry", "a newer revision is here")

    registry = Busy(store, NATIVE)
    slow = FileSystem(blobs, registry, root, NATIVE, random=lambda size: bytes(size))

    with pytest.raises(WriteConflict, match="another writer was faster"):
        await slow.put("f", b"2")

    assert registry.num_lost == 40
    assert await other.get("f", 10) == b"1"


async def test_a_blob_that_cannot_be_opened_is_no_rot(
    fs: FileSystem, store: BlobStore, tmp_path: Path
) -> None:
    info = await fs.put("f", bytes(300_000))
    (file,) = (path for path in (store.folder / "blobs").rglob("*") if path.is_file())
    aside = tmp_path / "aside"
    file.rename(aside)
    file.mkdir()  # opens, and does not read: as a disk that is there and fails otherwise

    with pytest.raises(StorageError, match="cannot be read") as failed:
        await fs.get("f", 300_000)
    file.rmdir()
    aside.rename(file)

    assert not isinstance(failed.value, CorruptBlob)
    assert await store.size(BlobId.decode(info.cid).multihash) is not None
    assert await fs.get("f", 300_000) == bytes(300_000)


@pytest.mark.parametrize("num_changes", [1, 4])
async def test_a_directory_that_is_replaced_while_it_is_read_is_read_anew(
    fs: FileSystem, registry: LocalRegistry, root: Capability, store: BlobStore, num_changes: int
) -> None:
    await fs.put("f", b"0")

    class Late(LocalBlobs):
        """Between the entry and its blob somebody replaces the directory, and the old one goes."""

        num_left = num_changes

        async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
            if self.num_left:
                self.num_left -= 1
                await fs.put("f", b"%d" % (num_changes - self.num_left))
                await store.collect(grace_seconds=-1)
            return await super().get(blob, max_bytes=max_bytes)

    late = FileSystem(Late(store, OWNER), registry, root, NATIVE)

    assert await late.get("f", 10) == b"%d" % num_changes


async def test_a_directory_that_is_always_replaced_is_a_conflict_and_no_rot(
    fs: FileSystem, registry: LocalRegistry, root: Capability, store: BlobStore
) -> None:
    await fs.put("f", b"0")

    class Late(LocalBlobs):
        async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
            await fs.put("f", blob.digest[:4])
            await store.collect(grace_seconds=-1)
            return await super().get(blob, max_bytes=max_bytes)

    late = FileSystem(Late(store, OWNER), registry, root, NATIVE)

    with pytest.raises(WriteConflict, match="while it was read"):
        await late.get("f", 10)


class Lonely(LocalRegistry):
    """A registry over this store and others, of whom nobody answers."""

    async def get(self, public_key: bytes) -> SignedEntry | None:
        if (entry := await super().get(public_key)) is None:
            raise PortalUnavailable("the others", "nobody answers")
        return entry


async def test_a_tree_is_not_begun_while_nobody_says_whether_there_is_one(
    store: BlobStore, blobs: LocalBlobs, root: Capability
) -> None:
    fs = FileSystem(blobs, Lonely(store, NATIVE), root, NATIVE)

    with pytest.raises(PortalUnavailable):
        await fs.put("f", b"1")
