"""History, metadata, moves, sharing, snapshots, and what is released when."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.integration.s5.fs.conftest import OWNER

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import AccessDenied, NotFound, PathRefused, WriteConflict
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.fs import FileSystem, open_tree
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


async def paths(tree: FileSystem) -> list[str]:
    return [info.path async for info in tree.walk()]


async def pinned(store: BlobStore) -> set[BlobId]:
    return {pin.blob async for pin in store.pins(OWNER)}


async def test_versions_are_kept_read_and_restored(fs: FileSystem, other: FileSystem) -> None:
    infos = [await fs.put("f", str(n).encode()) for n in range(3)]

    history = await other.history("f")
    assert [info.cid for info in history] == [info.cid for info in reversed(infos)]
    assert await other.get("f", 10, version=infos[0].cid) == b"0"
    await other.restore("f", infos[0].cid)
    assert await fs.get("f", 10) == b"0"
    assert [len(await fs.history("f")), (await fs.history("f"))[1].cid] == [3, infos[2].cid]
    with pytest.raises(NotFound):
        await fs.restore("f", "blobbnothing")
    with pytest.raises(NotFound):
        await fs.get("f", 10, version="blobbnothing")


async def test_dropped_versions_are_released(
    blobs: LocalBlobs, registry: LocalRegistry, root: Capability, store: BlobStore
) -> None:
    fs = FileSystem(blobs, registry, root, NATIVE, max_versions=2)
    infos = [await fs.put("d/f", str(n).encode()) for n in range(6)]

    held = {blob.encode() for blob in await pinned(store)}

    assert [info.cid in held for info in infos] == [False, False, False, True, True, True]
    assert len(held) == 3 + 2  # the root, the directory
    await fs.delete("d/f")
    assert len(await pinned(store)) == 2
    await fs.delete("d")
    assert len(await pinned(store)) == 1


async def test_histories_fit_into_flat_and_large_directories(
    fs: FileSystem, other: FileSystem
) -> None:
    for n in range(12):
        async with fs.batch() as batch:
            for name in range(40):
                await batch.put(f"d/{name}", f"{n}/{name}".encode())
    async with fs.batch() as batch:
        for name in range(1000):
            await batch.put(f"d/more-{name}", b"")

    assert len(await other.history("d/7")) == 9
    assert await other.get("d/7", 10) == b"11/7"
    await other.put("d/7", b"new")
    assert [info.size for info in await fs.history("d/7")] == [3, 4, 4, 3, 3, 3, 3, 3, 3]


async def test_metadata(fs: FileSystem, other: FileSystem) -> None:
    await fs.put("d/f", b"1")

    await fs.set_metadata("d/f", {"colour": "red", "n": 7}, media_type="text/x-new")
    await fs.set_metadata("d", {"title": "D"})

    info = await other.stat("d/f")
    assert not info.is_directory
    assert (info.metadata, (await other.history("d/f"))[0].media_type) == (
        {"colour": "red", "n": 7},
        "text/x-new",
    )
    assert (await other.stat("d")).metadata == {"title": "D"}
    assert len(await other.history("d/f")) == 1
    with pytest.raises(PathRefused):
        await fs.set_metadata("d/f", {"fabstir.shared": True})
    with pytest.raises(NotFound):
        await fs.set_metadata("d/g", {})


async def test_files_move(fs: FileSystem, other: FileSystem, store: BlobStore) -> None:
    first = await fs.put("a/f", b"1")
    await fs.put("a/f", b"2")
    await fs.put("b/g", b"3")

    await fs.move("a/f", "a/h")
    assert await paths(other) == ["a", "a/h", "b", "b/g"]
    with pytest.raises(WriteConflict):
        await fs.move("a/h", "b/g")
    await fs.move("a/h", "b/g", overwrite=True)
    assert await paths(other) == ["a", "b", "b/g"]
    assert await other.get("b/g", 10) == b"2"
    assert await other.get("b/g", 10, version=first.cid) == b"1"
    assert len(await other.history("b/g")) == 3
    await fs.move("b/g", "b/g")
    with pytest.raises(NotFound):
        await fs.move("a/nothing", "a/x")
    with pytest.raises(NotFound):
        await fs.move("b/g", "nowhere/g")
    # Moved blobs may be named twice after a crash: only a vacuum releases them.
    await fs.delete("b/g")
    assert first.cid in {blob.encode() for blob in await pinned(store)}
    await fs.vacuum(store.pins(OWNER), min_age=-60)
    assert first.cid not in {blob.encode() for blob in await pinned(store)}


async def test_directories_move_with_what_is_in_them(fs: FileSystem, other: FileSystem) -> None:
    await fs.put("a/b/c/f", b"1")
    await fs.put("x/y", b"2")

    await fs.move("a/b", "a/z")
    await fs.move("a/z", "x/b")

    assert await paths(other) == ["a", "x", "x/b", "x/b/c", "x/b/c/f", "x/y"]
    await other.put("x/b/c/g", b"3")
    assert await fs.get("x/b/c/g", 1) == b"3"
    await fs.put("a/b/c/f", b"new")
    assert await other.get("x/b/c/f", 10) == b"1"
    assert await other.get("a/b/c/f", 10) == b"new"
    with pytest.raises(PathRefused):
        await fs.move("x", "x/b/x")
    with pytest.raises(WriteConflict):
        await fs.move("a/b", "x/b")
    await fs.delete("x", recursive=True)
    assert await paths(other) == ["a", "a/b", "a/b/c", "a/b/c/f"]


async def test_a_shared_directory_is_read_and_its_parent_is_not(
    fs: FileSystem, blobs: LocalBlobs, registry: LocalRegistry
) -> None:
    await fs.put("private/secret", b"no")
    await fs.put("shared/sub/f", b"yes")

    text = await fs.share("shared")
    tree = open_tree(text, blobs, registry, NATIVE)

    assert text.startswith("b")
    assert [info.path async for info in tree.walk()] == ["sub", "sub/f"]
    assert await tree.get("sub/f", 10) == b"yes"
    await fs.put("shared/later", b"too")
    assert await tree.get("later", 10) == b"too"
    with pytest.raises(AccessDenied):
        FileSystem(blobs, registry, Capability.decode(text, NATIVE), NATIVE)
    with pytest.raises(PathRefused):
        await fs.share("shared/later")
    for garbage in ("", "hello", "b" * 60, "fs5://write:u@", text[:-3]):
        with pytest.raises(AccessDenied):
            open_tree(garbage, blobs, registry, NATIVE)


async def test_a_directory_that_was_shared_for_writing(
    fs: FileSystem, blobs: LocalBlobs, registry: LocalRegistry
) -> None:
    await fs.put("team/a", b"1")

    text = await fs.share("team", is_writable=True)
    team = FileSystem(blobs, registry, Capability.decode(text, NATIVE), NATIVE)
    await team.put("b/c", b"2")

    assert await fs.get("team/b/c", 1) == b"2"


async def test_a_shared_directory_that_its_owner_deleted(
    fs: FileSystem, blobs: LocalBlobs, registry: LocalRegistry
) -> None:
    await fs.put("team/f", b"f")
    readable, writable = await fs.share("team"), await fs.share("team", is_writable=True)
    guest = FileSystem(blobs, registry, Capability.decode(writable, NATIVE), NATIVE)
    await fs.delete("team", recursive=True)

    with pytest.raises(NotFound, match="deleted by its owner"):
        await open_tree(readable, blobs, registry, NATIVE).list()
    with pytest.raises(NotFound, match="of this capability was deleted"):
        await guest.put("g", b"acknowledged, and nowhere")
    await fs.put("team/f", b"another")
    assert await fs.get("team/f", 10) == b"another"


async def test_a_mounted_directory(
    fs: FileSystem, store: BlobStore, registry: LocalRegistry
) -> None:
    bob_root = Capability.of_keys(Identity(b"\1" * 16, NATIVE).file_system_root(), writable=True)
    bob = FileSystem(LocalBlobs(store, "bob"), registry, bob_root, NATIVE)
    await bob.put("out/f", b"bob's")

    await fs.mount("in/readable", await bob.share("out"))
    await fs.mount("in/writable", await bob.share("out", is_writable=True))

    assert await fs.get("in/readable/f", 10) == b"bob's"
    with pytest.raises(AccessDenied):
        await fs.put("in/readable/g", b"")
    with pytest.raises(AccessDenied):
        await fs.put("in/readable/sub/g", b"")
    await fs.put("in/writable/g", b"alice's")
    assert await bob.get("out/g", 10) == b"alice's"
    await fs.move("in/writable", "moved")
    await fs.put("moved/h", b"still")
    await fs.vacuum(store.pins(OWNER), min_age=-60)
    await fs.delete("in", recursive=True)
    await fs.delete("moved", recursive=True)
    assert [info.path async for info in bob.walk("out")] == ["out/f", "out/g", "out/h"]
    assert await bob.get("out/h", 10) == b"still"


async def test_a_snapshot_stays_and_its_key_opens_nothing_else(
    fs: FileSystem, store: BlobStore, blobs: LocalBlobs, registry: LocalRegistry
) -> None:
    await fs.put("d/sub/f", b"then")
    async with fs.batch() as batch:
        for n in range(1001):
            await batch.put(f"d/many/{n}", b"x")
    snapshot = await fs.snapshot("d")
    one = await fs.snapshot("d/sub/f")

    await fs.put("d/sub/f", b"now")
    await fs.delete("d", recursive=True)
    await fs.vacuum(store.pins(OWNER), min_age=-60)
    await store.collect(grace_seconds=-60)
    tree = open_tree(snapshot.capability, blobs, registry, NATIVE)

    assert await tree.get("sub/f", 10) == b"then"
    assert await tree.get("many/1000", 10) == b"x"
    assert len([info async for info in tree.walk()]) == 1004
    assert await open_tree(one.capability, blobs, registry, NATIVE).get("f", 10) == b"then"
    assert [s.capability for s in await fs.snapshots()] == [snapshot.capability, one.capability]
    await fs.drop_snapshot(snapshot.capability)
    await fs.drop_snapshot(one.capability)
    with pytest.raises(NotFound):
        await fs.drop_snapshot(one.capability)
    await fs.vacuum(store.pins(OWNER), min_age=-60)
    assert len(await pinned(store)) == 2  # the root, the index of snapshots


async def test_a_snapshot_does_not_open_the_living_directory(
    fs: FileSystem, blobs: LocalBlobs, registry: LocalRegistry
) -> None:
    await fs.put("d/f", b"1")
    snapshot = Capability.decode((await fs.snapshot("d")).capability, NATIVE)
    living = Capability.decode(await fs.share("d"), NATIVE)

    assert snapshot.cid.encryption_key is not None
    assert snapshot.cid.encryption_key != living.cid.encryption_key


async def test_a_vacuum_takes_what_nothing_names_and_nothing_else(
    fs: FileSystem, other: FileSystem, store: BlobStore, blobs: LocalBlobs
) -> None:
    infos = [await fs.put(f"d/{n}", str(n).encode()) for n in range(5)]
    await fs.put("clear", b"clear", encrypt=False)
    label = f"fs:{(await fs.share(''))[:0]}"
    reasons = {pin.reason async for pin in store.pins(OWNER)}
    assert all(reason.startswith(label) for reason in reasons)
    leaked = await blobs.put(b"leaked", reason=next(iter(reasons)))
    foreign = await blobs.put(b"somebody else's", reason="proof")

    kept = await fs.vacuum(store.pins(OWNER))
    taken = await fs.vacuum(store.pins(OWNER), min_age=-60)

    assert (kept.num_released, taken.num_released, taken.released_bytes) == (0, 1, 6)
    assert leaked not in await pinned(store)
    assert foreign in await pinned(store)
    await store.collect(grace_seconds=-60)
    assert [await other.get(info.path, 10) for info in infos] == [b"0", b"1", b"2", b"3", b"4"]
    assert await other.get("clear", 10) == b"clear"


async def test_a_vacuum_leaves_a_running_batch_alone(
    fs: FileSystem, other: FileSystem, store: BlobStore
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * 300_000

    async with fs.batch() as batch:
        await batch.put("d/f", pieces())
        await batch.put("d/clear", pieces(), encrypt=False)
        await fs.vacuum(store.pins(OWNER), min_age=-60)
        await store.collect(grace_seconds=-60)

    assert await other.get("d/f", 10**6) == b"x" * 300_000
    assert await other.get("d/clear", 10**6) == b"x" * 300_000


async def test_equal_files_in_clear_do_not_take_each_other_along(
    fs: FileSystem, other: FileSystem, store: BlobStore
) -> None:
    for name in ("a", "b"):
        await fs.put(name, b"the same", encrypt=False)
    await fs.put("empty", b"")
    await fs.put("empty too", b"")

    await fs.delete("a")
    await fs.delete("empty")
    await store.collect(grace_seconds=-60)

    assert await other.get("b", 10) == b"the same"
    assert await other.get("empty too", 10) == b""
