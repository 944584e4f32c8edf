"""What becomes of an unfinished upload when the disk takes no more."""

from __future__ import annotations

import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.s5.doors.door import blob_of, error_of, open_door
from tests.integration.s5.doors.test_tus import begin, offset_of, send

from fabstir.primitives.errors import StorageError, StorageFull
from fabstir.storage._partial_file import GATHER_BYTES, open_partial

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
