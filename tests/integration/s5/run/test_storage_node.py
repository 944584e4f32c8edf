"""A node reads what it has, fetches what others have, and believes nobody."""

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import anyio
import pytest

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import CorruptBlob, NotFound, PortalUnavailable
from fabstir.s5.formats.registry import SignedEntry, sign_entry
from fabstir.s5.ports import EntryRegistry
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry, open_store
from fabstir.s5.transfer import node as storage_node
from fabstir.s5.transfer.node import MergedRegistry, S5Node

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SEED = b"\x07" * 32
MAX_BYTES = 1 << 20
LARGE = bytes(range(256)) * 4096


class Neighbour(LocalBlobs):
    """Another store as a source; counts how often it is asked."""

    num_asked = 0

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        self.num_asked += 1
        await anyio.lowlevel.checkpoint()
        return await super().get(blob, max_bytes=max_bytes)

    def read(self, blob: BlobId, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        self.num_asked += 1
        return super().read(blob, start, end)


class Away:
    """A source whose portal is down."""

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        raise PortalUnavailable("http://portal.example", "it does not answer")

    async def read(
        self, blob: BlobId, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        raise PortalUnavailable("http://portal.example", "it does not answer")
        yield b""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[BlobStore]:
    async with open_store(tmp_path / "ours", NATIVE) as opened:
        yield opened


@pytest.fixture
async def neighbour(tmp_path: Path) -> AsyncGenerator[Neighbour]:
    async with open_store(tmp_path / "theirs", NATIVE) as opened:
        yield Neighbour(opened, "them")


@pytest.fixture
def node(store: BlobStore, neighbour: Neighbour) -> S5Node:
    return S5Node(store, [Away(), neighbour])


async def test_what_is_here_is_read_here(node: S5Node, neighbour: Neighbour) -> None:
    blobs = node.blobs("me")
    blob = await blobs.put(b"hello", reason="test")

    assert await blobs.get(blob.multihash, max_bytes=5) == b"hello"
    assert b"".join([piece async for piece in blobs.read(blob, 1, 4)]) == b"ell"
    assert neighbour.num_asked == 0


async def test_what_is_elsewhere_is_fetched_once_by_many_readers(
    node: S5Node, store: BlobStore, neighbour: Neighbour
) -> None:
    blob = await neighbour.put(b"theirs", reason="test")
    read: list[bytes] = []

    async def get() -> None:
        read.append(await node.get(blob.multihash, max_bytes=MAX_BYTES))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(get)

    assert read == [b"theirs"] * 10
    assert neighbour.num_asked == 1
    assert await store.size(blob.multihash) == 6
    assert [pin async for pin in store.pins()] == []


async def test_a_range_of_a_large_one_brings_all_of_it(
    node: S5Node, store: BlobStore, neighbour: Neighbour
) -> None:
    blob = await neighbour.put(LARGE, reason="test")

    part = b"".join([piece async for piece in node.read(blob, 1000, 5000)])

    assert part == LARGE[1000:5000]
    assert await store.size(blob.multihash) == len(LARGE)


async def test_a_file_that_a_source_has_becomes_the_stores(
    store: BlobStore, neighbour: Neighbour, tmp_path: Path
) -> None:
    file = tmp_path / "fetched"
    file.write_bytes(LARGE)
    inode = file.stat().st_ino

    class Fetcher(Away):
        async def fetch(self, blob: BlobId) -> Path | None:
            return file

    node = S5Node(store, [Fetcher(), neighbour])
    blob = BlobId(NATIVE.blake3(LARGE), len(LARGE))

    assert b"".join([piece async for piece in node.read(blob)]) == LARGE
    assert [path.stat().st_ino for path in store.folder.glob("blobs/*/*")] == [inode]
    assert not file.exists()
    assert [pin async for pin in store.pins()] == []


async def test_a_file_of_other_bytes_is_none(
    store: BlobStore, neighbour: Neighbour, tmp_path: Path
) -> None:
    file = tmp_path / "fetched"

    class Fetcher(Away):
        async def fetch(self, blob: BlobId) -> Path | None:
            file.write_bytes(LARGE[::-1])
            return file

    node = S5Node(store, [Fetcher(), neighbour])
    blob = await neighbour.put(LARGE, reason="test")

    assert b"".join([piece async for piece in node.read(blob)]) == LARGE
    assert not file.exists()


async def test_a_reader_that_gives_up_leaves_its_turn_to_the_next(
    node: S5Node, neighbour: Neighbour
) -> None:
    blob = await neighbour.put(b"theirs", reason="test")

    with anyio.move_on_after(0):
        await node.get(blob.multihash, max_bytes=MAX_BYTES)

    assert await node.get(blob.multihash, max_bytes=MAX_BYTES) == b"theirs"


async def test_nobody_has_it_is_remembered_for_a_while(
    store: BlobStore, neighbour: Neighbour
) -> None:
    now = [0.0]
    node = S5Node(store, [neighbour], clock=lambda: now[0])
    blob = BlobId(NATIVE.blake3(b"later"), 5)

    for _ in range(3):
        with pytest.raises(NotFound, match="anybody"):
            await node.get(blob.multihash, max_bytes=MAX_BYTES)
    asked_early = neighbour.num_asked
    await neighbour.put(b"later", reason="test")
    now[0] = 11.0

    assert asked_early == 1
    assert await node.get(blob.multihash, max_bytes=MAX_BYTES) == b"later"


async def test_a_portal_that_is_down_is_no_proof_that_nobody_has_it(store: BlobStore) -> None:
    node = S5Node(store, [Away()])

    for _ in range(2):
        with pytest.raises(PortalUnavailable):
            await node.get(Multihash(bytes(32)), max_bytes=MAX_BYTES)


async def test_what_has_rotted_here_is_mended_from_elsewhere(
    node: S5Node, store: BlobStore, neighbour: Neighbour
) -> None:
    blob = await node.blobs("me").put(LARGE, reason="test")
    rot(store)
    with pytest.raises(CorruptBlob):
        await S5Node(store, []).get(blob.multihash, max_bytes=len(LARGE))
    await neighbour.put(LARGE, reason="test")

    assert await node.get(blob.multihash, max_bytes=len(LARGE)) == LARGE
    assert await store.get(blob.multihash, max_bytes=len(LARGE)) == LARGE
    assert [pin.owner async for pin in store.pins()] == ["me"]


async def test_rot_that_nobody_can_mend_is_never_returned(node: S5Node, store: BlobStore) -> None:
    blob = await node.blobs("me").put(LARGE, reason="test")
    rot(store)

    for _ in range(2):
        with pytest.raises(CorruptBlob):
            await node.get(blob.multihash, max_bytes=len(LARGE))
    with pytest.raises(CorruptBlob):
        await node.mend(blob)


def rot(store: BlobStore) -> None:
    """Turn a bit of the only large blob."""
    (file,) = (path for path in store.folder.rglob("*") if path.stat().st_size == len(LARGE))
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)


# -- registry -----------------------------------------------------------------------------------


class DeadRegistry:
    """Others who do not answer."""

    async def get(self, public_key: bytes) -> SignedEntry | None:
        raise PortalUnavailable("http://portal.example", "it does not answer")

    async def set(self, entry: SignedEntry) -> None:
        raise PortalUnavailable("http://portal.example", "it does not answer")


class SilentRegistry(DeadRegistry):
    """Others who take the question and never answer it."""

    async def get(self, public_key: bytes) -> SignedEntry | None:
        await anyio.sleep_forever()


def entry(revision: int) -> SignedEntry:
    return sign_entry(SEED, revision, b"%d" % revision, NATIVE)


@pytest.fixture
def ours(store: BlobStore) -> LocalRegistry:
    return LocalRegistry(store, NATIVE)


@pytest.fixture
def theirs(neighbour: Neighbour) -> LocalRegistry:
    return LocalRegistry(neighbour.store, NATIVE)


async def test_the_newest_entry_wins_and_is_kept(
    ours: LocalRegistry, theirs: LocalRegistry
) -> None:
    now = [0.0]
    others: list[EntryRegistry] = [DeadRegistry(), theirs]
    registry = MergedRegistry(ours, others, clock=lambda: now[0])
    key = entry(0).public_key

    await registry.set(entry(1))
    assert await registry.get(key) == entry(1)
    await theirs.set(entry(2))
    assert await registry.get(key) == entry(1), "what was asked a moment ago is fresh"
    now[0] = 3.0
    assert await registry.get(key) == entry(2)
    assert await ours.get(key) == entry(2)


async def test_a_full_registry_passes_on_what_it_cannot_keep(
    store: BlobStore, theirs: LocalRegistry
) -> None:
    local = LocalRegistry(store, NATIVE, max_entries=1)
    await local.set(sign_entry(b"\1" * 32, 1, b"fills it", NATIVE))
    await theirs.set(entry(1))
    registry = MergedRegistry(local, [theirs])
    key = entry(0).public_key

    found = [await registry.get(key) for _ in range(2)]

    assert found == [entry(1), entry(1)]
    assert await local.get(key) is None


async def test_without_an_answer_ours_is_used_and_without_ours_it_is_said(
    ours: LocalRegistry,
) -> None:
    registry = MergedRegistry(ours, [DeadRegistry()])
    key = entry(0).public_key

    with pytest.raises(PortalUnavailable):
        await registry.get(key)
    await ours.set(entry(1))

    assert await registry.get(key) == entry(1)


async def test_silence_is_an_answer_that_did_not_come(
    ours: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_node, "REGISTRY_TIMEOUT", 0.05)
    registry = MergedRegistry(ours, [SilentRegistry()])
    key = entry(0).public_key

    # What the node's own files take as "not known", so that they can be written meanwhile.
    with pytest.raises(PortalUnavailable, match="nobody answered"):
        await registry.get(key)
    await ours.set(entry(1))
    assert await registry.get(key) == entry(1)
    monkeypatch.setattr(storage_node, "REGISTRY_TIMEOUT", 60.0)
    with anyio.fail_after(5):  # not asked again at once
        assert await registry.get(key) == entry(1)
