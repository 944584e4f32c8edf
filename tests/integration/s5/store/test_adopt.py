"""The blob folder of versions before the store: taken over, and removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.s5.store.helpers import LARGE, content, get

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.s5.store import BlobStore, adopt_folder

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


def keep_as_before(folder: Path, data: bytes) -> Path:
    """Write a file as the earlier version did."""
    name = NATIVE.blake3(data).hex()
    path = folder / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


async def test_everything_is_taken_over(store: BlobStore, tmp_path: Path) -> None:
    old = tmp_path / "blobs"
    contents = [content(size, size) for size in (0, 100, LARGE)]
    for data in contents:
        keep_as_before(old, data)
    (old / ".put-half").write_bytes(b"half")

    await adopt_folder(store, old, "host")
    await adopt_folder(store, old, "host")

    assert not old.exists()
    for data in contents:
        assert await get(store, BlobId(NATIVE.blake3(data), len(data))) == data
    assert {pin.owner async for pin in store.pins()} == {"host"}


async def test_rot_and_strangers_stay_where_they_are(
    store: BlobStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = tmp_path / "blobs"
    keep_as_before(old, b"right")
    rotten = keep_as_before(old, b"wrong")
    rotten.write_bytes(b"wronG")
    (old / "notes.txt").write_text("the operator's own")

    await adopt_folder(store, old, "host")

    assert {path for path in old.rglob("*") if path.is_file()} == {rotten, old / "notes.txt"}
    assert (await store.usage("host")).num_blobs == 1
    assert [record.message for record in caplog.records] == [
        "a blob of an earlier version has rotted"
    ]
