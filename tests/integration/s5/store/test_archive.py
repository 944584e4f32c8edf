"""Archives: what one store exports another one has afterwards, and damage is named."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.store.helpers import LARGE, content, files, flip, get

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import CorruptBlob, NotFound, QuotaExceeded, StorageError
from fabstir.s5.formats.registry import SignedEntry, blob_pointer, sign_entry
from fabstir.s5.store import (
    BlobStore,
    Exported,
    Imported,
    LocalRegistry,
    export_archive,
    import_archive,
    open_store,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SIZES = [0, 1, 70_000, 1_000, LARGE, 2_200_000]


SEED = b"\5" * 32
KEY = NATIVE.ed25519_public_key(SEED)


def entry(revision: int, blob: BlobId) -> SignedEntry:
    return sign_entry(SEED, revision, blob_pointer(blob.multihash), NATIVE)


async def filled(store: BlobStore) -> list[BlobId]:
    return [await store.put(content(size, size), owner="a", reason="test") for size in SIZES]


async def test_an_archive_carries_a_store(store: BlobStore, tmp_path: Path) -> None:
    blobs, archive = await filled(store), tmp_path / "all.s5car"
    await LocalRegistry(store, NATIVE).set(entry(5, blobs[2]))

    exported = await export_archive(store, archive)

    assert exported == Exported(num_blobs=6, num_bytes=sum(SIZES), num_entries=1, damaged=())
    async with open_store(tmp_path / "other", NATIVE) as other:
        for _ in range(2):  # the second time everything is there already
            imported = await import_archive(
                other, archive, LocalRegistry(other, NATIVE), owner="b", crypto=NATIVE
            )
            assert imported == Imported(
                num_blobs=6, num_bytes=sum(SIZES), num_entries=1, num_outdated=0
            )
        for blob in blobs:
            assert await get(other, blob) == content(blob.size, blob.size)
        assert await LocalRegistry(other, NATIVE).get(KEY) == entry(5, blobs[2])
        assert {(pin.owner, pin.reason) async for pin in other.pins()} == {("b", "import")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.s5car", "other", "s5"]


async def test_an_archive_is_a_file(store: BlobStore, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(StorageError, match="is no file"):
        await import_archive(store, pipe, LocalRegistry(store, NATIVE), owner="a", crypto=NATIVE)
    for missing in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StorageError):
            await import_archive(
                store, missing, LocalRegistry(store, NATIVE), owner="a", crypto=NATIVE
            )


async def test_one_owners_blobs_are_exported(store: BlobStore, tmp_path: Path) -> None:
    await filled(store)
    await store.put(b"another's", owner="b", reason="test")

    exported = await export_archive(store, tmp_path / "b.s5car", owner="b")

    assert (exported.num_blobs, exported.num_bytes) == (1, 9)


async def test_a_rotten_blob_is_left_out_and_named(
    store: BlobStore, folder: Path, tmp_path: Path
) -> None:
    blobs = await filled(store)
    flip(next((folder / "blobs").glob(f"*/{blobs[-1].digest.hex()}.*")), 2_100_000)

    exported = await export_archive(store, tmp_path / "all.s5car")

    assert (exported.num_blobs, exported.damaged) == (5, (blobs[-1],))
    async with open_store(tmp_path / "other", NATIVE) as other:
        assert (
            await import_archive(
                other,
                tmp_path / "all.s5car",
                LocalRegistry(other, NATIVE),
                owner="a",
                crypto=NATIVE,
            )
        ).num_blobs == 5
    with pytest.raises(CorruptBlob):
        await get(store, blobs[-1])


async def test_a_tampered_blob_is_named_and_the_others_are_kept(
    store: BlobStore, tmp_path: Path
) -> None:
    blobs, archive = await filled(store), tmp_path / "all.s5car"
    await export_archive(store, archive)
    flip(archive, 200)  # in the third blob

    async with open_store(tmp_path / "other", NATIVE) as other:
        with pytest.raises(StorageError) as caught:
            await import_archive(
                other, archive, LocalRegistry(other, NATIVE), owner="a", crypto=NATIVE
            )

        assert f"{blobs[2].encode()} (number 3); the other 5 are kept" in str(caught.value)
        with pytest.raises(NotFound):
            await get(other, blobs[2])
        assert (await other.usage("a")).num_blobs == 5
        assert len(files(tmp_path / "other")) == 2


async def test_a_truncated_archive_keeps_what_was_verified(
    store: BlobStore, tmp_path: Path
) -> None:
    await filled(store)
    archive, cut = tmp_path / "all.s5car", tmp_path / "cut.s5car"
    await export_archive(store, archive)
    whole = archive.read_bytes()
    expected = {
        0: "this is no S5 archive",
        7: "this is no S5 archive",
        8: "cut off between two parts; the 0 blobs before",
        20: "cut off in a part's head; the 0 blobs",
        71_300: r"ends \d+ bytes before the end of a blob; the 4 blobs before are kept",
        len(whole) - 1: "cut off in its end; the 6 blobs before are kept",
    }

    async with open_store(tmp_path / "other", NATIVE) as other:
        for length, text in expected.items():
            cut.write_bytes(whole[:length])
            with pytest.raises(StorageError, match=text):
                await import_archive(
                    other, cut, LocalRegistry(other, NATIVE), owner="a", crypto=NATIVE
                )
        assert (await other.usage("a")).num_blobs == 6


async def test_an_archive_respects_the_quota(store: BlobStore, tmp_path: Path) -> None:
    await filled(store)
    await export_archive(store, tmp_path / "all.s5car")

    async with open_store(tmp_path / "other", NATIVE) as other:
        await other.set_quota("a", 100_000)
        with pytest.raises(QuotaExceeded):
            await import_archive(
                other,
                tmp_path / "all.s5car",
                LocalRegistry(other, NATIVE),
                owner="a",
                crypto=NATIVE,
            )
        assert (await other.usage("a")).num_bytes == 71_001


async def test_files_that_cannot_be_used_are_named(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        await import_archive(
            store, tmp_path / "none.s5car", LocalRegistry(store, NATIVE), owner="a", crypto=NATIVE
        )
    with pytest.raises(StorageError, match="No such file"):
        await export_archive(store, tmp_path / "none" / "all.s5car")


async def test_what_is_collected_meanwhile_is_left_out(store: BlobStore, tmp_path: Path) -> None:
    blobs = await filled(store)
    await store.unpin("a", [blob.multihash for blob in blobs])
    await store.collect(grace_seconds=0)

    exported = await export_archive(store, tmp_path / "all.s5car")

    assert exported == Exported(num_blobs=0, num_bytes=0, num_entries=0, damaged=())


async def test_an_entry_that_is_newer_here_stays(store: BlobStore, tmp_path: Path) -> None:
    blobs, archive = await filled(store), tmp_path / "all.s5car"
    await LocalRegistry(store, NATIVE).set(entry(5, blobs[2]))
    await export_archive(store, archive)

    async with open_store(tmp_path / "other", NATIVE) as other:
        registry = LocalRegistry(other, NATIVE)
        for revision, blob in ((5, blobs[3]), (6, blobs[4])):
            await registry.set(entry(revision, blob))
            imported = await import_archive(other, archive, registry, owner="b", crypto=NATIVE)
            assert (imported.num_entries, imported.num_outdated) == (0, 1)
            assert await registry.get(KEY) == entry(revision, blob)


async def test_an_entry_whose_blob_has_rotted_is_not_set(
    store: BlobStore, folder: Path, tmp_path: Path
) -> None:
    blobs, archive = await filled(store), tmp_path / "all.s5car"
    await LocalRegistry(store, NATIVE).set(entry(5, blobs[-1]))
    flip(next((folder / "blobs").glob(f"*/{blobs[-1].digest.hex()}.*")), 2_100_000)
    await export_archive(store, archive)

    async with open_store(tmp_path / "other", NATIVE) as other:
        registry = LocalRegistry(other, NATIVE)
        imported = await import_archive(other, archive, registry, owner="b", crypto=NATIVE)

        assert (imported.num_blobs, imported.num_entries, imported.num_outdated) == (5, 0, 1)
        assert await registry.get(KEY) is None


async def test_what_is_set_while_an_export_goes_on_has_its_blob_with_it(
    store: BlobStore, tmp_path: Path
) -> None:
    registry, archive = LocalRegistry(store, NATIVE), tmp_path / "all.s5car"
    await filled(store)
    is_done = False

    async def write() -> None:
        revision = 0
        while not is_done:
            blob = await store.put(content(revision, 2_000), owner="a", reason="test")
            await registry.set(entry(revision, blob))
            revision += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        for number in range(5):
            await export_archive(store, archive.with_suffix(f".{number}"))
        is_done = True

    for number in range(5):
        async with open_store(tmp_path / f"other{number}", NATIVE) as other:
            imported = await import_archive(
                other,
                archive.with_suffix(f".{number}"),
                LocalRegistry(other, NATIVE),
                owner="b",
                crypto=NATIVE,
            )
            assert imported.num_outdated == 0
