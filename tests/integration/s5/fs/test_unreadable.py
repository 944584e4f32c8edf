"""Directories that lead nowhere, to junk or in circles: they hold up nothing but themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from tests.integration.s5.fs.sharer import Sharer

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import PathRefused, WriteConflict
from fabstir.protocol.s5.directory import Directory, DirRef, LinkKind, Sharding
from fabstir.protocol.s5.directory_cid import Capability
from fabstir.protocol.s5.limits import MAX_REVISION
from fabstir.protocol.s5.registry import read_blob_pointer
from fabstir.storage.fs import FileSystem
from fabstir.storage.fs.keys import sealed_write_key
from fabstir.storage.store import BlobStore, LocalBlobs, LocalRegistry

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
