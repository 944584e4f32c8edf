"""A finished file becomes a blob: verified, not copied, and left alone where it cannot be one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.integration.s5.store.helpers import LARGE, content, files, findings, get

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType, Multihash
from fabstir.primitives.errors import HashMismatch, QuotaExceeded, StorageError
from fabstir.s5.store import BlobStore

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "finished"
    path.write_bytes(content("finished", LARGE))
    return path


async def test_the_file_itself_becomes_the_blob(store: BlobStore, folder: Path, file: Path) -> None:
    file.chmod(0o644)
    inode = file.stat().st_ino

    blob = await store.adopt(file, owner="a", reason="test")

    assert not file.exists()
    (kept,) = files(folder)
    assert (kept.stat().st_ino, kept.stat().st_nlink) == (inode, 1)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert await get(store, blob) == content("finished", LARGE)
    assert await findings(store) == []


@pytest.mark.parametrize("size", [0, 1, 131_071, 131_072, 1 << 20])
async def test_every_size(store: BlobStore, folder: Path, tmp_path: Path, size: int) -> None:
    file, data = tmp_path / "file", content(size, size)
    file.write_bytes(data)

    blob = await store.adopt(file, owner="a", reason="test")

    assert blob == BlobId(NATIVE.blake3(data), size)
    assert await get(store, blob) == data
    assert not file.exists()
    assert len(files(folder)) == (size >= 131_072)


async def test_from_another_file_system_it_is_copied(store: BlobStore, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        file = Path(other) / "finished"
        file.write_bytes(content("finished", LARGE))
        if file.stat().st_dev == folder.stat().st_dev:
            pytest.skip("there is one file system only")

        blob = await store.adopt(file, owner="a", reason="test")

        assert not file.exists()
    assert await get(store, blob) == content("finished", LARGE)


async def test_what_is_here_already_is_pinned(store: BlobStore, folder: Path, file: Path) -> None:
    blob = await store.put(file.read_bytes(), owner="a", reason="test")
    (kept,) = files(folder)

    assert await store.adopt(file, owner="b", reason="test") == blob

    assert files(folder) == [kept]
    assert not file.exists()
    assert (await store.usage("b")).num_bytes == (await store.usage()).num_bytes == LARGE


async def test_a_rotten_blob_is_healed(store: BlobStore, folder: Path, file: Path) -> None:
    blob = await store.put(file.read_bytes(), owner="a", reason="test")
    files(folder)[0].unlink()

    await store.adopt(file, owner="a", reason="test")

    assert await get(store, blob) == content("finished", LARGE)
    assert len(files(folder)) == 1


async def test_by_its_sha256(store: BlobStore, file: Path) -> None:
    name = Multihash(hashlib.sha256(file.read_bytes()).digest(), HashType.SHA256)

    blob = await store.adopt(file, owner="a", reason="test", expected=name)

    assert blob.multihash == name
    assert await get(store, name) == content("finished", LARGE)


async def test_a_refused_file_stays_as_it_was(store: BlobStore, folder: Path, file: Path) -> None:
    noted: list[BlobId] = []

    def note(_connection: Connection, blob: BlobId) -> None:
        noted.append(blob)
        raise QuotaExceeded("a", 0, 1)

    with pytest.raises(HashMismatch):
        await store.adopt(file, owner="a", reason="test", expected=Multihash(bytes(32)))
    with pytest.raises(QuotaExceeded):
        await store.adopt(file, owner="a", reason="test", note=note)
    await store.set_quota("a", LARGE - 1)
    with pytest.raises(QuotaExceeded):
        await store.adopt(file, owner="a", reason="test")

    assert file.read_bytes() == content("finished", LARGE)
    assert file.stat().st_nlink == 1
    assert files(folder) == []
    assert await store.size(noted[0].multihash) is None
    assert (await store.usage()).num_blobs == 0


async def test_only_plain_files_are_taken(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(LARGE))
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")

    for name in ("link", "pipe", "nothing"):
        with pytest.raises(StorageError):
            await store.adopt(tmp_path / name, owner="a", reason="test")

    assert files(folder) == []
    assert secret.stat().st_nlink == 1
