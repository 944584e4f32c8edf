"""Blobs: what went in comes out, and nothing else does."""

from pathlib import Path

import anyio
import pytest

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import StorageError
from fabstir.storage import BlobStore


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", NATIVE)


@pytest.mark.parametrize("data", [b"", b"x", b"y" * 100_000])
def test_round_trip(store: BlobStore, data: bytes) -> None:
    blob = anyio.run(store.put, data)

    assert blob.size == len(data)
    assert anyio.run(store.get, blob) == data


def test_the_same_bytes_are_stored_once(store: BlobStore, tmp_path: Path) -> None:
    first, second = anyio.run(store.put, b"same"), anyio.run(store.put, b"same")

    assert first == second
    assert sum(1 for path in (tmp_path / "blobs").rglob("*") if path.is_file()) == 1


def test_a_missing_blob_is_named(store: BlobStore) -> None:
    blob = BlobId(bytes(32), 5)

    with pytest.raises(StorageError, match=blob.encode()):
        anyio.run(store.get, blob)


def test_rot_is_never_returned(store: BlobStore, tmp_path: Path) -> None:
    blob = anyio.run(store.put, b"the truth")
    (file,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    file.write_bytes(b"the trutH")

    with pytest.raises(StorageError, match="not what was stored"):
        anyio.run(store.get, blob)
