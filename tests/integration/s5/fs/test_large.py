"""Large files and large directories: all there, and little memory, little rewritten."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterable
from pathlib import Path
from time import perf_counter

import anyio
import pytest
from tests.integration.s5.fs.conftest import OWNER
from tests.integration.s5.fs.crash_child import say

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.s5.formats.directory import Directory, DirectoryDialect, FileEncryption, FileRef
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.limits import HAMT_LEAF_ENTRIES
from fabstir.s5.fs import FileSystem
from fabstir.s5.fs.directories import Directories
from fabstir.s5.fs.keys import in_clear
from fabstir.s5.fs.rewriting import Rewriting
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry

pytestmark = pytest.mark.integration

MAX_GROWN_BYTES = 48 << 20
"""Measured 5 to 25 MiB, whatever the size."""


def stream(folder: Path, size: int) -> None:
    module = "tests.integration.s5.fs.stream_child"
    command = [sys.executable, "-m", module, str(folder), str(size)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    say(f"{size >> 20} MiB streamed: {found}")
    assert found["is_equal"]
    assert found["size"] == size
    assert found["grown"] < MAX_GROWN_BYTES


def test_a_stream_takes_little_memory(tmp_path: Path) -> None:
    stream(tmp_path / "store", 64 << 20)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_four_gibibytes_take_little_memory(tmp_path: Path) -> None:
    stream(tmp_path / "store", 4 << 30)


async def read_every_entry(fs: FileSystem, other: FileSystem, num_files: int) -> None:
    started = perf_counter()
    for first in range(0, num_files, 2000):
        async with fs.batch() as batch:
            for n in range(first, min(first + 2000, num_files)):
                await batch.put(f"d/file{n}.txt", b"content of %d" % n)
    written = perf_counter()

    names = {info.path async for info in other.walk("d")}
    misses: list[int] = []

    async def read(numbers: range) -> None:
        for n in numbers:
            if await other.get(f"d/file{n}.txt", 100) != b"content of %d" % n:
                misses.append(n)

    async with anyio.create_task_group() as tasks:
        for first in range(16):
            tasks.start_soon(read, range(first, num_files, 16))

    ended = perf_counter()
    say(
        f"{num_files} files written in {written - started:.1f} s and read by a fresh reader in "
        f"{ended - written:.1f} s, {len(misses)} misses"
    )
    assert (len(names), misses) == (num_files, [])


@pytest.mark.anyio
async def test_1005_files(fs: FileSystem, other: FileSystem) -> None:
    await read_every_entry(fs, other, 1005)


@pytest.mark.anyio
@pytest.mark.heavy
@pytest.mark.timeout(1800)
async def test_40000_files(fs: FileSystem, other: FileSystem) -> None:
    await read_every_entry(fs, other, 40_000)


class CountedBlobs(LocalBlobs):
    """The store, with the sizes of what is put for directories, and for nodes of their HAMTs."""

    directory_bytes = node_bytes = 0

    async def put(
        self, data: bytes | AsyncIterable[bytes], *, reason: str, may_use_reserve: bool = False
    ) -> BlobId:
        blob = await super().put(data, reason=reason)
        self.directory_bytes += blob.size if reason.endswith("directory") else 0
        self.node_bytes += blob.size if reason.endswith("node") else 0
        return blob


async def measure_rewriting(
    store: BlobStore, root: Capability, num_entries: int, *, is_clear: bool
) -> float:
    """Bytes of HAMT nodes that one new file rewrites, at so many entries."""
    blobs, registry = CountedBlobs(store, OWNER), LocalRegistry(store, NATIVE)
    capability = in_clear(root) if is_clear else root
    directories = Directories(
        blobs,
        registry,
        NATIVE,
        random=secrets.token_bytes,
        dialect=DirectoryDialect.CANONICAL,
        label="built",
        cache_bytes=1 << 20,
    )
    loaded = await directories.load(capability, "")
    files = {f"file{n}.txt": some_file(n, is_clear=is_clear) for n in range(num_entries)}
    rewriting = Rewriting(directories, HAMT_LEAF_ENTRIES)
    started = perf_counter()
    built = await rewriting.arrange(loaded, Directory(files=files, dirs={}))
    blob = await directories.store_directory(built.directory, built.encoded, capability)
    await directories.publish(capability, loaded.revision + 1, blob)
    build_seconds = perf_counter() - started
    fs = FileSystem(blobs, registry, capability, NATIVE)

    num_puts = 40
    blobs.directory_bytes = blobs.node_bytes = 0
    started = perf_counter()
    for n in range(num_puts):
        await fs.put(f"new{n}.txt", b"a new file", encrypt=not is_clear)
    put_seconds = (perf_counter() - started) / num_puts
    rewritten = blobs.node_bytes / num_puts
    beside = blobs.directory_bytes / num_puts

    assert (
        await FileSystem(blobs, registry, capability, NATIVE).get("new7.txt", 10) == b"a new file"
    )
    say(
        f"{num_entries} entries, {'in clear' if is_clear else 'encrypted'}: built in "
        f"{build_seconds:.1f} s; for one more {rewritten / 1024:.1f} KiB of nodes and "
        f"{beside / 1024:.1f} KiB of the directory rewritten in {put_seconds * 1000:.1f} ms"
    )
    return rewritten


@pytest.mark.anyio
async def test_an_insert_rewrites_little(store: BlobStore, root: Capability) -> None:
    rewritten = await measure_rewriting(store, root, 3000, is_clear=False)

    # A node's leaves hold 94 entries here, and 30 at a million: between two levels of the tree the
    # figure goes up and down.
    assert rewritten <= 40 * 1024


@pytest.mark.anyio
@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("is_clear", "max_kib"), [(False, 24), (True, 12)])
async def test_an_insert_rewrites_little_at_a_million(
    store: BlobStore, root: Capability, max_kib: int, *, is_clear: bool
) -> None:
    rewritten = await measure_rewriting(store, root, 1_000_000, is_clear=is_clear)

    assert rewritten <= max_kib * 1024


def some_file(number: int, *, is_clear: bool) -> FileRef:
    digest = NATIVE.blake3(b"%d" % number)
    key = FileEncryption(key=digest, plaintext_hash=digest)
    return FileRef(
        hash=digest,
        size=number,
        media_type="text/plain",
        timestamp=1_800_000_000,
        timestamp_nanos=123_456_789,
        encryption=None if is_clear else key,
    )
