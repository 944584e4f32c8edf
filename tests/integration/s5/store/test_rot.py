"""Bytes that rot on the disk: named, never returned, and healed by storing them anew."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.store.helpers import (
    LARGE,
    content,
    files,
    findings,
    flip,
    get,
    joined,
    stream,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType, Multihash
from fabstir.primitives.errors import CorruptBlob, StorageError
from fabstir.s5.store import BlobStore, Fault, Finding, open_store

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


def change_row(folder: Path, data: bytes, changed: bytes) -> None:
    """Change the bytes of a small blob inside SQLite's file."""
    with sqlite3.connect(folder / "store.sqlite") as connection:
        connection.execute("UPDATE blob_data SET data = ? WHERE data = ?", (changed, data))
    connection.close()


async def rotten(store: BlobStore, folder: Path, size: int) -> BlobId:
    """A blob of this size, of which one bit is wrong."""
    data = content("rot", size)
    blob = await store.put(data, owner="a", reason="test")
    if size < 131_072:
        change_row(folder, data, bytes([data[0] ^ 1]) + data[1:])
    else:
        flip(files(folder)[0], size - 1)
    return blob


@pytest.mark.parametrize("size", [100, LARGE, 3_000_000])
async def test_rot_is_named_and_never_returned(store: BlobStore, folder: Path, size: int) -> None:
    blob = await rotten(store, folder, size)

    with pytest.raises(CorruptBlob) as caught:
        await get(store, blob)

    assert caught.value.blob == blob.encode()
    place = "store.sqlite (blob_data, row 1)" if size == 100 else str(files(folder)[0])
    assert caught.value.place.endswith(place)
    assert await store.size(blob.multihash) is None


async def test_no_unverified_byte_is_yielded(store: BlobStore, folder: Path) -> None:
    data = content("rot", 3_000_000)
    blob = await rotten(store, folder, 3_000_000)

    assert await joined(store.read(blob.multihash, 0, 2_800_000)) == data[:2_800_000]
    pieces: list[bytes] = []
    with pytest.raises(CorruptBlob):
        async for piece in store.read(blob.multihash):
            pieces.append(piece)

    assert b"".join(pieces) == data[: 2 << 20]
    with pytest.raises(CorruptBlob):  # from now on nothing of it is served
        await joined(store.read(blob.multihash, 0, 10))
    with pytest.raises(CorruptBlob):
        await store.pin("b", [blob.multihash], reason="test")


@pytest.mark.parametrize("size", [100, LARGE])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_storing_it_anew_heals_it(
    store: BlobStore, folder: Path, size: int, is_streamed: bool
) -> None:
    data = content("rot", size)
    blob = await rotten(store, folder, size)
    before = await store.usage("a")
    with pytest.raises(CorruptBlob):
        await get(store, blob)

    await store.put(stream([data]) if is_streamed else data, owner="b", reason="repair")

    assert await get(store, blob) == data
    assert await joined(store.read(blob.multihash, 5)) == data[5:]
    assert await store.usage("a") == before == await store.usage()
    assert len(files(folder)) == (size == LARGE)
    assert await findings(store) == []


@pytest.mark.parametrize("what", ["removed", "cut off"])
async def test_a_file_that_is_not_there_heals_without_being_read(
    store: BlobStore, folder: Path, what: str
) -> None:
    data = content("lost", LARGE)
    blob = await store.put(data, owner="a", reason="test")
    file = files(folder)[0]
    file.unlink() if what == "removed" else file.write_bytes(data[:-1])

    await store.put(data, owner="a", reason="test")

    assert await get(store, blob) == data
    assert len(files(folder)) == 1


async def test_a_file_that_is_gone_is_named(store: BlobStore, folder: Path) -> None:
    blob = await store.put(content("gone", LARGE), owner="a", reason="test")
    files(folder)[0].unlink()
    with pytest.raises(CorruptBlob, match=blob.digest.hex()):
        await get(store, blob)

    await store.put(content("gone", LARGE), owner="a", reason="test")
    files(folder)[0].unlink()
    with pytest.raises(CorruptBlob, match=blob.digest.hex()):
        await joined(store.read(blob.multihash))


async def test_a_rotten_sha256_name_is_noticed(store: BlobStore, folder: Path) -> None:
    name = Multihash(hashlib.sha256(b"data").digest(), HashType.SHA256)
    other = Multihash(b"\2" * 32, HashType.SHA256)
    await store.put(b"data", owner="a", reason="test", expected=name)
    with sqlite3.connect(folder / "store.sqlite") as connection:
        connection.execute("UPDATE blobs SET sha256 = ?", (other.digest,))
    connection.close()

    with pytest.raises(CorruptBlob):
        await get(store, other)


async def test_a_scrub_names_everything_that_is_wrong(store: BlobStore, folder: Path) -> None:
    blobs = {
        name: await store.put(content(name, size), owner="a", reason="test")
        for name, size in {
            "right": 100, "row": 200, "file": LARGE, "lost": LARGE, "cut": LARGE, "well": LARGE,
        }.items()
    }  # fmt: skip
    paths = {name: next((folder / "blobs").glob(f"*/{b.digest.hex()}.*"), Path())
             for name, b in blobs.items()}  # fmt: skip
    change_row(folder, content("row", 200), b"changed")
    flip(paths["file"], 0)
    paths["lost"].unlink()
    paths["cut"].write_bytes(b"short")
    orphan = folder / "blobs" / "ab" / "orphan"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"whose?")

    found = await findings(store)

    assert found == [
        Finding(
            fault=Fault.ROT, blob=blobs["row"], place=f"{folder}/store.sqlite (blob_data, row 2)"
        ),
        Finding(fault=Fault.ROT, blob=blobs["file"], place=str(paths["file"])),
        Finding(fault=Fault.MISSING, blob=blobs["lost"], place=str(paths["lost"])),
        Finding(fault=Fault.WRONG_SIZE, blob=blobs["cut"], place=str(paths["cut"])),
        Finding(fault=Fault.ORPHAN, blob=None, place=str(orphan)),
    ]
    for name in ("row", "file", "lost", "cut"):
        assert await store.size(blobs[name].multihash) is None
    assert await get(store, blobs["well"]) == content("well", LARGE)


async def test_a_file_that_was_restored_is_served_again(store: BlobStore, folder: Path) -> None:
    blob = await rotten(store, folder, LARGE)
    path = files(folder)[0]
    assert [finding.fault for finding in await findings(store)] == [Fault.ROT]
    path.write_bytes(content("rot", LARGE))

    assert [finding.fault for finding in await findings(store)] == [Fault.RESTORED]

    assert await findings(store) == []
    assert await get(store, blob) == content("rot", LARGE)


async def test_rotten_group_hashes_are_made_anew(store: BlobStore, folder: Path) -> None:
    blob = await store.put(content("groups", LARGE), owner="a", reason="test")
    with sqlite3.connect(folder / "store.sqlite") as connection:
        connection.execute("UPDATE blob_groups SET hashes = zeroblob(64)")
    connection.close()

    assert [finding.fault for finding in await findings(store)] == [Fault.RESTORED]

    assert await joined(store.read(blob.multihash)) == content("groups", LARGE)


async def test_orphans_go_only_when_asked(store: BlobStore, folder: Path) -> None:
    blob = await store.put(content("kept", LARGE), owner="a", reason="test")
    orphan = files(folder)[0].with_name("orphan")
    orphan.write_bytes(b"whose?")

    await findings(store)
    assert orphan.exists()
    reports = [report async for report in store.scrub(remove_orphans=True)]

    assert not orphan.exists()
    assert await get(store, blob) == content("kept", LARGE)
    assert (reports[-1].num_blobs, reports[-1].num_bytes, reports[-1].total_blobs) == (1, LARGE, 1)


async def test_a_scrub_goes_on_where_one_ended(store: BlobStore) -> None:
    for number in range(70):
        await store.put(content(number, 10), owner="a", reason="test")
    reports = [report async for report in store.scrub()]

    assert [report.num_blobs for report in reports[:2]] == [64, 70]
    assert len(reports) == 2 + 256
    for index in (0, 1, 2, 100):
        rest = [report async for report in store.scrub(after=reports[index].cursor)]
        assert [r.cursor for r in rest] == [r.cursor for r in reports[index + 1 :]]
    for cursor in ("nonsense", "blob:x", "folder:xyz"):
        with pytest.raises(ValueError, match="is no cursor"):
            await anext(aiter(store.scrub(after=cursor)))


async def test_a_scrub_keeps_to_its_rate(store: BlobStore) -> None:
    await store.put(content("slow", 1_000_000), owner="a", reason="test")
    moments: list[float] = []
    reports = store.scrub(max_bytes_per_second=8e6)

    begun = anyio.current_time()
    async for _report in reports:
        moments.append(anyio.current_time())
        break

    assert moments[0] - begun >= 0.12


async def test_a_damaged_database_is_named(folder: Path) -> None:
    async with open_store(folder, NATIVE) as store:
        blobs = [await store.put(content(n, 60_000), owner="a", reason="test") for n in range(20)]
    data = bytearray((folder / "store.sqlite").read_bytes())
    data[40 * 4096 :] = b"\xff" * len(data[40 * 4096 :])
    (folder / "store.sqlite").write_bytes(data)

    async with open_store(folder, NATIVE) as store:
        results = [await outcome(store, blob) for blob in blobs]

    assert set(results) <= {"verified", "CorruptBlob", "StorageError"}
    assert results.count("verified") < len(blobs)


async def outcome(store: BlobStore, blob: BlobId) -> str:
    try:
        await get(store, blob)
    except StorageError as error:
        return type(error).__name__
    return "verified"
