"""Fills a store until the disk refuses, on a disk of a few megabytes; run by test_disk_full.

    python full_child.py FOLDER {tmpfs | fsize}

With `tmpfs` a small file system of its own is mounted on FOLDER: this needs a user namespace. With
`fsize` the kernel refuses files that are longer than a limit.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import anyio

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import StorageError, StorageFull
from fabstir.s5.store import BlobStore, open_store

DISK_BYTES = 16 << 20
FILE_BYTES = 2 << 20


def main(folder: Path, kind: str) -> None:
    if kind == "tmpfs":
        mount(folder)
        anyio.run(fill_disk, folder)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        anyio.run(exceed_file_size, folder)


def mount(folder: Path) -> None:
    """A small file system, which ends with this process."""
    options = f"size={DISK_BYTES}".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options):
        raise OSError(ctypes.get_errno(), "mount")


async def fill_disk(folder: Path) -> None:
    store_folder = folder / "s5"
    kept: dict[BlobId, bytes] = {}
    async with open_store(store_folder, NATIVE) as store:
        # Files: the last one ends in the middle of a write.
        await fill(store, kept, 3_000_000)
        await check(store, store_folder, kept)
        # Rows: SQLite meets the full disk.
        await fill(store, kept, 50_000)
        await check(store, store_folder, kept)
        num_before = len(kept)

        victims = [blob for blob in kept if blob.size > 1_000_000][:2]
        await store.unpin("a", [blob.multihash for blob in victims])
        await store.collect(grace_seconds=0)
        for blob in victims:
            del kept[blob]
        await fill(store, kept, 40_000)
        await check(store, store_folder, kept)
        assert len(kept) > num_before, "later writes work again"
    async with open_store(store_folder, NATIVE) as store:
        await check(store, store_folder, kept)


async def exceed_file_size(folder: Path) -> None:
    store_folder = folder / "s5"
    kept: dict[BlobId, bytes] = {}
    async with open_store(store_folder, NATIVE) as store:
        await put(store, kept, 1_900_000)
        for _ in range(3):
            try:
                await put(store, kept, 5_000_000)
            except StorageFull:
                await check(store, store_folder, kept)
            else:
                raise AssertionError("a file became longer than the kernel allows")
            await put(store, kept, 1_000_000)
            await put(store, kept, 1_000)
        await check(store, store_folder, kept)


async def fill(store: BlobStore, kept: dict[BlobId, bytes], size: int) -> None:
    """Put until there is no room; one more each time, so that nothing is said twice only once."""
    num_refused = 0
    while num_refused < 3:
        try:
            await put(store, kept, size)
        except StorageFull:
            num_refused += 1


async def put(store: BlobStore, kept: dict[BlobId, bytes], size: int) -> None:
    data = Random(f"{len(kept)}/{size}").randbytes(size)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 100_000):
            yield data[start : start + 100_000]

    kept[await store.put(pieces(), owner="a", reason="test")] = data


async def check(store: BlobStore, folder: Path, kept: dict[BlobId, bytes]) -> None:
    """What was acknowledged is there, and nothing else is."""
    for blob, data in kept.items():
        assert await store.get(blob.multihash, max_bytes=1 << 30) == data
    usage = await store.usage("a")
    assert usage.num_blobs == len(kept)
    assert usage.num_bytes == sum(blob.size for blob in kept)
    num_files = sum(1 for path in (folder / "blobs").rglob("*") if path.is_file())
    assert num_files == sum(blob.size >= 131_072 for blob in kept), "files of no blob"
    assert not list((folder / "tmp").iterdir())
    async for report in store.scrub(max_bytes_per_second=1e12):
        assert not report.findings, report.findings


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except StorageError as error:
        sys.exit(f"{type(error).__name__}: {error}")
