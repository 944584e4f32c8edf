"""Directories that lead nowhere, to junk or in circles: they hold up nothing but themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from tests.integration.s5.fs.conftest import OWNER
from tests.integration.s5.fs.sharer import Sharer

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import PathRefused, PortalUnavailable, WriteConflict
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory import Directory, DirRef, LinkKind, Sharding
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.limits import MAX_REVISION
from fabstir.s5.formats.registry import SignedEntry, read_blob_pointer
from fabstir.s5.fs import FileSystem
from fabstir.s5.fs.keys import sealed_write_key
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry
from fabstir.s5.tables.usage import load_usage_lines

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

Attack = Callable[[Sharer, Sharer], Awaitable[DirRef]]
"""What he does with a child of his directory; the reference that he then writes."""


async def missing_blob(_team: Sharer, child: Sharer) -> DirRef:
    await child.point(Multihash(b"\1" * 32))
    return child.reference()


async def junk(_team: Sharer, child: Sharer) -> DirRef:
    blob = await child.blobs.put(b"junk" * 100, reason="test")
    await child.point(blob.multihash)
    return child.reference()


async def sealed_junk(_team: Sharer, child: Sharer) -> DirRef:
    await child.publish_bytes(b"junk")
    return child.reference()


async def nothing(_team: Sharer, child: Sharer) -> DirRef:
    return child.reference()


async def wrong_key(_team: Sharer, child: Sharer) -> DirRef:
    await child.publish(Directory(files={}, dirs={}))
    return child.reference(key=bytes(32))


async def no_key(_team: Sharer, child: Sharer) -> DirRef:
    await child.publish(Directory(files={}, dirs={}))
    return DirRef(kind=LinkKind.MUTABLE, link=child.link)


async def lost_nodes(_team: Sharer, child: Sharer) -> DirRef:
    lost = Sharding(
        bits_per_level=5,
        max_leaf_entries=16,
        hash_function=0,
        root=b"\1" * 32,
        num_entries=7,
        depth=1,
    )
    await child.publish(Directory(files={}, dirs={}, sharding=lost))
    return child.reference()


async def last_revision(_team: Sharer, child: Sharer) -> DirRef:
    await child.publish(Directory(files={}, dirs={}))
    entry = await child.registry.get(child.link)
    assert entry is not None
    await child.point(read_blob_pointer(entry.data), revision=MAX_REVISION)
    return child.reference()


async def last_revision_of_nothing(_team: Sharer, child: Sharer) -> DirRef:
    await child.point(Multihash(b"\1" * 32), revision=MAX_REVISION)
    return child.reference()


async def own_parent(team: Sharer, _child: Sharer) -> DirRef:
    return sealed(team, team)


async def own_sibling(team: Sharer, _child: Sharer) -> DirRef:
    return sealed(team, team.child("kept"))


async def itself(_team: Sharer, child: Sharer) -> DirRef:
    await child.publish(Directory(files={}, dirs={"again": sealed(child, child)}))
    return child.reference()


async def without_end(_team: Sharer, child: Sharer) -> DirRef:
    below = child
    for _ in range(80):
        next_one = below.child("d")
        await below.publish(Directory(files={}, dirs={"d": next_one.reference()}))
        below = next_one
    return child.reference()


def sealed(parent: Sharer, child: Sharer) -> DirRef:
    """Leads to a directory with another key than its name's, which the parent's writers have."""
    nonce = bytes(24)
    extra = sealed_write_key(parent.capability, child.capability, nonce, NATIVE)
    ref = child.reference()
    return DirRef(kind=ref.kind, link=ref.link, encryption_key=ref.encryption_key, extra=extra)


ATTACKS: tuple[Attack, ...] = (
    missing_blob,
    junk,
    sealed_junk,
    nothing,
    wrong_key,
    no_key,
    lost_nodes,
    last_revision,
    last_revision_of_nothing,
    own_parent,
    own_sibling,
    itself,
    without_end,
)


@pytest.fixture
async def team(fs: FileSystem, store: BlobStore, registry: LocalRegistry) -> Sharer:
    """A directory of the owner with one below it, which somebody else may write."""
    await fs.put("private/f", b"private")
    await fs.put("team/kept/f", b"kept")
    await fs.put("team/f", b"team's")
    capability = Capability.decode(await fs.share("team", is_writable=True), NATIVE)
    return Sharer(LocalBlobs(store, "mallory"), registry, capability)


async def is_well(fs: FileSystem, store: BlobStore) -> bool:
    """All that the owner wrote is there, also after a collection."""
    await store.collect(grace_seconds=-60)
    paths = {"private/f": b"private", "team/kept/f": b"kept", "team/f": b"team's"}
    return [await fs.get(path, 10) for path in paths] == list(paths.values())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("is_fresh", [False, True])
async def test_what_cannot_be_read_can_be_deleted_and_its_name_used_again(
    fs: FileSystem,
    other: FileSystem,
    store: BlobStore,
    team: Sharer,
    attack: Attack,
    is_fresh: bool,
) -> None:
    bait = await attack(team, team.child("bait"))
    await team.add(dirs={"bait": bait})
    victim = other if is_fresh else fs

    await victim.delete("team/bait", recursive=True)

    assert not await victim.exists("team/bait")
    assert await is_well(victim, store)
    await victim.put("team/bait/again", b"again")
    assert await fs.get("team/bait/again", 10) == b"again"
    await team.add(dirs={"bait": bait})
    await victim.delete("team", recursive=True)
    assert not await fs.exists("team")
    assert await victim.get("private/f", 10) == b"private"


@pytest.mark.parametrize("attack", [missing_blob, junk, wrong_key, lost_nodes])
async def test_whether_it_is_empty_is_not_guessed(
    fs: FileSystem, team: Sharer, attack: Attack
) -> None:
    await team.add(dirs={"bait": await attack(team, team.child("bait"))})

    with pytest.raises(PathRefused, match=r"cannot be read.*rm -r"):
        await fs.delete("team/bait")
    assert await fs.exists("team/bait")


async def test_a_directory_whose_revisions_are_used_up_says_so_and_can_be_deleted(
    fs: FileSystem, store: BlobStore, team: Sharer
) -> None:
    entry = await team.registry.get(team.link)
    assert entry is not None
    await team.point(read_blob_pointer(entry.data), revision=MAX_REVISION)

    for refused in (fs.put("team/g", b""), fs.delete("team/f"), fs.delete("team/kept")):
        with pytest.raises((WriteConflict, PathRefused)):
            await refused
    with pytest.raises(WriteConflict, match="last revision"):
        await fs.put("team/g", b"")
    assert await is_well(fs, store)
    await fs.delete("team", recursive=True)
    assert not await fs.exists("team")
    await fs.put("team/f", b"anew")
    assert await fs.get("team/f", 10) == b"anew"


async def test_a_second_name_of_the_directory_itself_leaves_it_alone(
    fs: FileSystem, store: BlobStore, team: Sharer
) -> None:
    """Also from further down."""
    kept = team.child("kept")
    await kept.add(dirs={"up": sealed(kept, team)})

    await fs.delete("team/kept/up", recursive=True)

    assert await is_well(fs, store)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_no_entry_holds_up_a_vacuum(
    fs: FileSystem, other: FileSystem, store: BlobStore, team: Sharer, attack: Attack
) -> None:
    snapshot = await fs.snapshot("private")
    for n in range(3):
        await fs.put("private/g", str(n).encode())  # while there is a snapshot nothing is released
    await fs.drop_snapshot(snapshot.capability)
    before = (await store.usage(OWNER)).num_blobs
    await team.add(dirs={"bait": await attack(team, team.child("bait"))})

    vacuumed = await other.vacuum(store.pins(OWNER), min_age=-60)

    assert vacuumed.num_released >= 4  # the snapshot's directory, and three of private/
    assert before - vacuumed.num_released == (await store.usage(OWNER)).num_blobs
    assert all(path == "/team/bait" for path in vacuumed.unreadable)
    assert await is_well(other, store)
    await other.delete("team/bait", recursive=True)
    assert (await other.vacuum(store.pins(OWNER), min_age=-60)).unreadable == {}
    assert await is_well(other, store)


async def test_what_lies_below_a_directory_that_cannot_be_read_is_there_when_it_can(
    fs: FileSystem, other: FileSystem, store: BlobStore, team: Sharer
) -> None:
    await fs.make_directory("team/kept/deeper")
    await fs.put("elsewhere/h", b"moved")
    await fs.put("team/kept/deeper/g", b"deeper")
    await fs.put("team/kept/large", bytes(100_000))
    async with fs.batch() as batch:
        await batch.put("team/kept/deeper/b", b"batch")
    await fs.move("elsewhere/h", "team/kept/h")
    kept = team.child("kept")
    entry = await team.registry.get(kept.link)
    assert entry is not None

    for attack in (missing_blob, junk, sealed_junk, lost_nodes):
        await attack(team, kept)
        vacuumed = await other.vacuum(store.pins(OWNER), min_age=-60)
        assert list(vacuumed.unreadable) == ["/team/kept"]
        assert vacuumed.num_kept > 0
        await store.collect(grace_seconds=-60)
    await kept.point(read_blob_pointer(entry.data))

    assert await is_well(other, store)
    found = [await other.get(f"team/kept/{name}", 10**6) for name in ("deeper/g", "deeper/b", "h")]
    assert found == [b"deeper", b"batch", b"moved"]
    assert await other.get("team/kept/large", 10**6) == bytes(100_000)


class Away(LocalRegistry):
    """Knows nothing of some keys, and nobody answers who might."""

    gone: frozenset[bytes] = frozenset()

    async def get(self, public_key: bytes) -> SignedEntry | None:
        if public_key in self.gone:
            raise PortalUnavailable("ws://bob", "nobody answers")
        return await super().get(public_key)


@pytest.fixture
def bob(store: BlobStore, registry: LocalRegistry) -> FileSystem:
    root = Capability.of_keys(Identity(b"\1" * 16, NATIVE).file_system_root(), writable=True)
    return FileSystem(LocalBlobs(store, "bob"), registry, root, NATIVE)


async def test_a_writable_mount_whose_owner_is_away_holds_up_nothing(
    fs: FileSystem, bob: FileSystem, store: BlobStore, blobs: LocalBlobs, root: Capability
) -> None:
    await bob.put("out/sub/f", b"bob's")
    await fs.mount("mounted", await bob.share("out", is_writable=True))
    await fs.put("mounted/sub/mine", b"mine")
    await fs.put("mounted/large", bytes(100_000))
    async with fs.batch() as batch:
        await batch.put("mounted/sub/batch", b"batch")
    await fs.put("own/moved", b"moved")
    await fs.move("own/moved", "mounted/moved")
    garbage = await fs.put("own/g", b"garbage")
    await fs.make_directory("own/deeper")
    await fs.move("own/g", "own/deeper/g")
    away = Away(store, NATIVE)
    away.gone = frozenset({Capability.decode(await bob.share("out"), NATIVE).cid.link})
    alone = FileSystem(blobs, away, root, NATIVE)

    await alone.delete("own/deeper/g")
    vacuumed = await alone.vacuum(store.pins(OWNER), min_age=-60)
    await store.collect(grace_seconds=-60)

    assert list(vacuumed.unreadable) == ["/mounted"]
    assert vacuumed.num_released >= 1
    assert await store.size(BlobId.decode(garbage.cid).multihash) is None
    assert await bob.get("out/sub/mine", 10) == b"mine"
    assert await bob.get("out/sub/batch", 10) == b"batch"
    assert await bob.get("out/moved", 10) == b"moved"
    assert await bob.get("out/large", 10**6) == bytes(100_000)
    with pytest.raises(PortalUnavailable):
        await alone.list("mounted")
    await alone.delete("mounted")
    assert (await alone.vacuum(store.pins(OWNER), min_age=-60)).unreadable == {}
    assert await bob.get("out/sub/f", 10) == b"bob's"


async def test_what_is_moved_out_of_or_into_a_mount_is_held_by_who_moved_it(
    fs: FileSystem, bob: FileSystem, store: BlobStore
) -> None:
    await bob.put("out/theirs", b"theirs")
    await fs.put("own/f", b"own")
    await fs.mount("mounted", await bob.share("out", is_writable=True))

    await fs.move("mounted/theirs", "own/taken")
    await fs.move("own/f", "mounted/given")
    await bob.vacuum(store.pins("bob"), min_age=-60)
    await store.collect(grace_seconds=-60)

    assert await fs.get("own/taken", 10) == b"theirs"
    assert await bob.get("out/given", 10) == b"own"


async def test_the_usage_is_by_tree_and_kind_and_not_by_directory(
    fs: FileSystem, store: BlobStore
) -> None:
    for n in range(3):
        await fs.put(f"d{n}/f", b"f")

    lines = await store.db.read(lambda connection: load_usage_lines(connection, 100))

    label = fs.reason("")
    assert {(line.reason, line.num_blobs) for line in lines} == {
        (f"{label}file", 3),
        (f"{label}directory", 4),
    }


async def test_a_directory_that_never_stands_still_holds_up_nothing(
    fs: FileSystem, store: BlobStore, blobs: LocalBlobs, team: Sharer, root: Capability
) -> None:
    class Restless(LocalRegistry):
        """Whoever asks for the directory finds a new revision of it."""

        async def get(self, public_key: bytes) -> SignedEntry | None:
            if public_key == team.link:
                await team.add()
            return await super().get(public_key)

    snapshot = await fs.snapshot("private")
    await fs.drop_snapshot(snapshot.capability)
    restless = FileSystem(blobs, Restless(store, NATIVE), root, NATIVE)

    vacuumed = await restless.vacuum(store.pins(OWNER), min_age=-60)

    assert list(vacuumed.unreadable) == ["/team"]
    assert vacuumed.num_released >= 1
    assert await is_well(fs, store)
