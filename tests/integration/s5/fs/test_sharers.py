"""A directory shared for writing with somebody hostile: nothing outside of it is lost."""

from __future__ import annotations

import time
from dataclasses import replace

import anyio
import pytest
from tests.integration.s5.fs.conftest import OWNER
from tests.integration.s5.fs.sharer import Sharer, read_key

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import PathRefused, RemoteProtocolError
from fabstir.s5.formats.cbor import encode_canonical, head_bytes
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory import (
    Cbor,
    Directory,
    DirRef,
    FileEncryption,
    FileRef,
    Sharding,
)
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.hamt import hash_key
from fabstir.s5.formats.registry import read_blob_pointer
from fabstir.s5.fs import FileInfo, FileSystem, open_tree
from fabstir.s5.fs.keys import sealed_write_key
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

NUM_SECRETS = 12


@pytest.fixture
def mallory(store: BlobStore) -> LocalBlobs:
    return LocalBlobs(store, "mallory")


async def let_in(
    fs: FileSystem, mallory: LocalBlobs, registry: LocalRegistry, path: str = "team"
) -> Sharer:
    capability = Capability.decode(await fs.share(path, is_writable=True), NATIVE)
    return Sharer(mallory, registry, capability)


def named(info: FileInfo) -> FileRef:
    """An entry that names another file's blob by its hash and size, which its CID says."""
    blob = BlobId.decode(info.cid)
    key = FileEncryption(key=bytes(32), plaintext_hash=bytes(32))
    return FileRef(hash=blob.digest, size=blob.size - 16, encryption=key)


def chained(files: list[FileRef]) -> FileRef:
    newest, *older = files
    return replace(newest, prev=chained(older)) if older else newest


async def secrets_of(fs: FileSystem) -> list[FileInfo]:
    return [await fs.put(f"private/{n}", f"secret {n}".encode()) for n in range(NUM_SECRETS)]


async def num_lost(fs: FileSystem, store: BlobStore, infos: list[FileInfo]) -> int:
    """After a collection of everything that nobody pins."""
    await store.collect(grace_seconds=-60)
    blobs = [BlobId.decode(info.cid).multihash for info in infos]
    return sum([await store.size(blob) is None for blob in blobs])


@pytest.mark.parametrize("act", ["delete", "delete directory", "put", "batch", "restore", "edit"])
async def test_an_entry_that_names_private_blobs_takes_none_of_them_along(
    fs: FileSystem, store: BlobStore, mallory: LocalBlobs, registry: LocalRegistry, act: str
) -> None:
    await fs.put("team/ours", b"shared")
    infos = await secrets_of(fs)
    sharer = await let_in(fs, mallory, registry)
    await sharer.add({"bait": chained([named(info) for info in infos])})

    match act:
        case "delete":
            await fs.delete("team/bait")
        case "delete directory":
            await fs.delete("team", recursive=True)
        case "batch":
            async with fs.batch() as batch:
                batch.delete("team/bait")
        case "restore":
            await fs.restore("team/bait", (await fs.history("team/bait"))[3].cid)
        case "edit":
            await fs.set_metadata("team/bait", {"colour": "red"})
        case _:
            pass
    if act in {"put", "restore", "edit"}:
        for n in range(12):
            await fs.put("team/bait", str(n).encode())

    assert await num_lost(fs, store, infos) == 0
    assert [await fs.get(info.path, 20) for info in infos] == [
        f"secret {n}".encode() for n in range(NUM_SECRETS)
    ]


async def test_neither_in_a_directory_that_was_only_mounted(
    fs: FileSystem, store: BlobStore, mallory: LocalBlobs, registry: LocalRegistry
) -> None:
    root = Capability.of_keys(Identity(b"\1" * 16, NATIVE).file_system_root(), writable=True)
    theirs = FileSystem(mallory, registry, root, NATIVE)
    await theirs.put("trap/f", b"theirs")
    infos = await secrets_of(fs)
    await fs.mount("mounted", await theirs.share("trap", is_writable=True))
    sharer = await let_in(theirs, mallory, registry, "trap")
    await sharer.add({"a": chained([named(i) for i in infos]), "b": named(infos[0])})

    await fs.put("mounted/mine", b"mine")
    await fs.delete("mounted/a")
    await fs.put("mounted/b", b"over it")
    await fs.delete("mounted/b")

    assert await num_lost(fs, store, infos) == 0
    assert await fs.get("mounted/mine", 10) == b"mine"


async def test_neither_by_a_second_name_of_a_file_that_was_moved_out(
    fs: FileSystem, store: BlobStore, mallory: LocalBlobs, registry: LocalRegistry
) -> None:
    info = await fs.put("team/plan", b"the plan")
    await fs.make_directory("private")
    sharer = await let_in(fs, mallory, registry)
    as_it_was = await sharer.read()
    entry = await registry.get(sharer.link)
    assert entry is not None
    await fs.move("team/plan", "private/plan")

    await sharer.add(as_it_was.files)
    await fs.delete("team/plan")
    assert await num_lost(fs, store, [info]) == 0
    # The very bytes that we wrote, once more: they say which revision they are.
    await sharer.point(read_blob_pointer(entry.data))
    await fs.delete("team/plan")
    assert await num_lost(fs, store, [info]) == 0
    assert await fs.get("private/plan", 10) == b"the plan"


async def test_neither_a_directory_that_the_sharer_only_reads(
    fs: FileSystem, store: BlobStore, mallory: LocalBlobs, registry: LocalRegistry
) -> None:
    """He lets a directory of his lead to the very blob of another one, whose key he has."""
    await fs.put("team/f", b"f")
    infos = [await fs.put(f"readable/{n}", b"read only") for n in range(1, 4)]
    async with fs.batch() as batch:
        for n in range(1001):
            await batch.put(f"large/{n}", b"x")
    sharer = await let_in(fs, mallory, registry)
    for path in ("readable", "large"):
        victim = Capability.decode(await fs.share(path), NATIVE)
        entry = await registry.get(victim.cid.link)
        assert entry is not None
        child = sharer.child(path)
        await child.point(read_blob_pointer(entry.data))
        await sharer.add(dirs={path: child.reference(read_key(await fs.share(path)))})
    assert await fs.get("team/readable/1", 10) == b"read only"

    await fs.put("team/readable/2", b"changed here")
    await fs.put("team/large/2", b"changed here")
    await fs.delete("team/large/3")
    await fs.put("team/large/5", b"and once more")
    await fs.delete("team", recursive=True)

    assert await num_lost(fs, store, infos) == 0
    fresh = FileSystem(LocalBlobs(store, OWNER), registry, fs_root(), NATIVE)
    assert await fresh.get("readable/2", 10) == b"read only"
    assert len([found async for found in fresh.walk("large")]) == 1001


def fs_root() -> Capability:
    return Capability.of_keys(Identity(b"\7" * 16, NATIVE).file_system_root(), writable=True)


async def test_what_only_the_owner_writes_is_released_at_once_and_the_rest_by_a_vacuum(
    fs: FileSystem, store: BlobStore, mallory: LocalBlobs, registry: LocalRegistry
) -> None:
    async def held(info: FileInfo) -> bool:
        blob = BlobId.decode(info.cid)
        return blob in {pin.blob async for pin in store.pins(OWNER)}

    mine = await fs.put("private/f", b"mine")
    ours = await fs.put("team/f", b"ours")
    sharer = await let_in(fs, mallory, registry)
    await sharer.add()

    await fs.delete("private/f")
    await fs.delete("team/f")

    assert (await held(mine), await held(ours)) == (False, True)
    await fs.vacuum(store.pins(OWNER), min_age=-60)
    assert not await held(ours)


async def test_a_forged_mark_of_ours_counts_for_nothing(
    fs: FileSystem, store: BlobStore, mallory: LocalBlobs, registry: LocalRegistry
) -> None:
    await fs.put("team/f", b"f")
    infos = await secrets_of(fs)
    sharer = await let_in(fs, mallory, registry)
    guest = FileSystem(mallory, registry, sharer.capability, NATIVE)
    headers: list[dict[Cbor, Cbor]] = [
        {**(await sharer.read()).header},
        {"fabstir.own": bytes(17)},
        {"fabstir.own": 7},
    ]
    for header in headers:
        bait = {"bait": named(infos[0])}
        await sharer.publish(Directory(files=bait, dirs={}, header=header))
        await guest.put("g", b"with a mark that his own key made")

        await fs.delete("team/bait")

    assert await num_lost(fs, store, infos) == 0


async def test_a_snapshot_of_directories_with_many_names_copies_each_once(
    fs: FileSystem, store: BlobStore, mallory: LocalBlobs, registry: LocalRegistry
) -> None:
    """Twenty directories with two names each: a million paths."""
    await fs.put("team/f", b"f")
    sharer = await let_in(fs, mallory, registry)
    below: Sharer | None = None
    for n in range(20):
        one = sharer.child(f"level {n}")
        names = {} if below is None else {"a": sealed(one, below), "b": sealed(one, below)}
        await one.publish(Directory(files={}, dirs=names))
        below = one
    assert below is not None
    await sharer.add(dirs={"top": sealed(sharer, below)})
    before = (await store.usage(OWNER)).num_blobs

    snapshot = await fs.snapshot("team")

    assert (await store.usage(OWNER)).num_blobs - before < 30
    tree = open_tree(snapshot.capability, LocalBlobs(store, OWNER), registry, NATIVE)
    assert await tree.get("f", 10) == b"f"
    assert (await tree.list("/".join(["top", *"ab" * 9]))).entries


async def test_a_snapshot_of_what_leads_back_to_itself_says_where(
    fs: FileSystem, mallory: LocalBlobs, registry: LocalRegistry
) -> None:
    await fs.put("team/sub/f", b"f")
    sharer = await let_in(fs, mallory, registry)
    await sharer.child("sub").add(dirs={"up": sealed(sharer.child("sub"), sharer)})

    with pytest.raises(PathRefused, match=r"'team/sub/up' leads back"):
        await fs.snapshot("")
    await fs.delete("team/sub/up", recursive=True)
    assert len(await fs.snapshots()) == 0
    await fs.snapshot("")


def sealed(parent: Sharer, child: Sharer) -> DirRef:
    extra = sealed_write_key(parent.capability, child.capability, bytes(24), NATIVE)
    return replace(child.reference(), extra=extra)


async def write_nodes(sharer: Sharer, bodies: list[bytes]) -> bytes:
    """Nodes in a chain, each with its link to the next one in slot 0; returns the first one's."""
    link = b"\1" * 32
    for body in reversed(bodies):
        blob = await sharer.blobs.put(body.replace(b"\2" * 32, link), reason="test")
        link = blob.digest
    return link


def hostile_node(depth: int, num_bytes: int, *, extra: bool) -> bytes:
    """A node whose only child leads on, and besides that as many short items as fit."""
    mark = b"filling"
    children: list[Cbor] = [{"type": "node", "cid": b"\x1e" + b"\2" * 32}]
    if not extra:
        entry: Cbor = {"hash": bytes(32), "size": 1, 99: mark}
        children.append({"type": "leaf", "entries": [["f:x", entry]]})
    bitmap = 1 if extra else 3
    node: dict[Cbor, Cbor] = {
        "bitmap": bitmap,
        "children": children,
        "count": 1 << 30,
        "depth": depth,
        **({"filling": mark} if extra else {}),
    }
    config: Cbor = {"bitsPerLevel": 5, "maxInlineEntries": 1000, "hashFunction": 0}
    whole = encode_canonical(node if depth else {"version": 1, "config": config, "root": node})
    num_items = (num_bytes - 400) // 3
    filling = head_bytes(4, num_items) + b"\x42ab" * num_items
    return whole.replace(encode_canonical(mark), filling)


@pytest.mark.parametrize("extra", [True, False], ids=["unknown fields", "known fields"])
async def test_thirteen_hostile_nodes_stop_neither_the_loop_nor_the_reader_for_long(
    store: BlobStore, mallory: LocalBlobs, registry: LocalRegistry, extra: bool
) -> None:
    root = Capability.of_keys(Identity(b"\1" * 16, NATIVE).file_system_root(), writable=True)
    sharer = Sharer(mallory, registry, root)
    size = 4_000_000
    link = await write_nodes(sharer, [hostile_node(n, size, extra=extra) for n in range(13)])
    sharding = Sharding(
        bits_per_level=5,
        max_leaf_entries=1000,
        hash_function=0,
        root=link,
        num_entries=1 << 30,
        depth=12,
    )
    await sharer.publish(Directory(files={}, dirs={}, sharding=sharding))
    counted = Counted(store, OWNER)
    tree = open_tree(root.cid.encode(), counted, registry, NATIVE)
    name = next(str(n) for n in range(10**9) if hash_key(f"f:{n}", 0, NATIVE) & 0x3FF == 0)
    gaps: list[float] = []

    async def tick() -> None:
        before = time.monotonic()
        while True:
            await anyio.sleep(0)
            now = time.monotonic()
            gaps.append(now - before)
            before = now

    begun = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        with pytest.raises(RemoteProtocolError):
            await tree.stat(name)
        tasks.cancel_scope.cancel()
    took = time.monotonic() - begun

    assert counted.num_long <= (1 if extra else 4)
    assert max(gaps) < took / 2
    if extra:
        gaps.clear()
        with pytest.raises(RemoteProtocolError):
            await tree.stat(name)
        assert counted.num_long == 1


class Counted(LocalBlobs):
    """Counts the long blobs that are read."""

    num_long = 0

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        data = await super().get(blob, max_bytes=max_bytes)
        self.num_long += len(data) > 1_000_000
        return data
