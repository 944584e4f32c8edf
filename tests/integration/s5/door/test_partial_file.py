"""What becomes of an unfinished upload when the disk takes no more, or loses what it took."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.door.door import blob_of, error_of, open_door
from tests.integration.s5.door.test_tus import begin, offset_of, send

from fabstir.primitives.errors import StorageError, StorageFull
from fabstir.s5.transfer._partial_file import GATHER_BYTES, open_partial

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@contextmanager
def longest_file(num_bytes: int) -> Generator[None]:
    """The system refuses to write beyond (EFBIG), as a full disk does (ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_what_found_room_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "part"
    room = GATHER_BYTES + 1000

    async with open_partial(path, 0, None) as file:
        with longest_file(room), pytest.raises(StorageFull):
            for _ in range(3):
                await file.append(b"x" * GATHER_BYTES)
        assert file.size == room
        await file.flush()

    assert path.stat().st_size == room


async def test_a_full_disk_keeps_what_was_acknowledged(folder: Path) -> None:
    async with open_door(folder) as door:
        data = bytes(range(256)) * (3 << 12)
        url = await begin(door.owner, len(data))

        # Above what a new database's files have: only the upload's own file meets the limit.
        with longest_file(2 << 20):
            full = await send(door.owner, url, 0, data)
        offset = await offset_of(door.owner, url)

        assert (full.status_code, error_of(full)) == (507, "storage_full")
        assert str(folder) not in full.text
        assert offset == 2 << 20
        done = await send(door.owner, url, offset, data[offset:])
        assert done.headers["upload-cid"] == blob_of(data).encode("z")


async def test_a_file_that_was_cut_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"abc")

    async with open_partial(path, 2, "sha256") as file:
        await file.append(b"C")
        await file.flush()
    assert path.read_bytes() == b"abC"
    with pytest.raises(StorageError, match="shorter than it was"):
        async with open_partial(path, 4, None):
            pass


async def test_after_a_failed_flush_nothing_is_acknowledged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux tells of pages that it could not write once; the next flush says all is well."""
    flush, num_failures = os.fsync, 0

    def failing_once(descriptor: int) -> None:
        nonlocal num_failures
        if Path(f"/proc/self/fd/{descriptor}").readlink().parent.name == "uploads":
            num_failures += 1
            if num_failures == 1:
                raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    async with open_door(folder) as door:
        data = secrets.token_bytes(100_000)
        url = await begin(door.owner, len(data))
        assert (await send(door.owner, url, 0, data[:1000])).status_code == 204
        monkeypatch.setattr(os, "fsync", failing_once)

        lost = await send(door.owner, url, 1000, data[1000:50_000])

        assert lost.status_code == 500
        assert num_failures == 1
        assert await offset_of(door.owner, url) == 1000
        done = await send(door.owner, url, 1000, data[1000:])
        assert done.headers["upload-cid"] == blob_of(data).encode("z")


async def test_a_file_that_somebody_cut_becomes_no_blob(folder: Path) -> None:
    async with open_door(folder) as door:
        data = secrets.token_bytes(100_000)
        url = await begin(door.owner, len(data))
        await send(door.owner, url, 0, data[:99_999])
        (part,) = (folder / "uploads").iterdir()
        os.truncate(part, 5000)

        answer = await send(door.owner, url, 99_999, data[99_999:])

        assert answer.status_code == 500
        assert (await door.store.usage()).num_blobs == 0


async def test_closing_waits_for_the_write_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its bytes could go to another file, which has the number of the closed one by then."""
    write, begun, may_go_on = os.write, threading.Event(), threading.Event()

    def slow(descriptor: int, data: bytes) -> int:
        begun.set()
        may_go_on.wait()
        return write(descriptor, data)

    path = tmp_path / "part"
    async with open_partial(path, 0, None) as file:
        closing = threading.Thread(target=file.close)
        monkeypatch.setattr(os, "write", slow)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(file.append, b"x" * GATHER_BYTES)
            await anyio.to_thread.run_sync(begun.wait)
            closing.start()
            closing.join(0.05)
            assert closing.is_alive()
            may_go_on.set()
        closing.join()
        assert path.stat().st_size == GATHER_BYTES
        with pytest.raises(StorageError, match="it was closed"):
            await file.flush()
