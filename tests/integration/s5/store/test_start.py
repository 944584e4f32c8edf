"""A start looks at what a kill may have left, never at every blob."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import ConfigError
from fabstir.s5.store import BlobStore, StoreUsage, open_store
from fabstir.s5.tables.blobs import doom, load_doomed

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BLOBS = """
WITH RECURSIVE numbers(n) AS (VALUES (:first) UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
INSERT INTO blobs (id, digest, size, is_bad, num_pins, created_at)
SELECT n, CAST(printf('%032d', n) AS BLOB), 20, 0, 1, 0 FROM numbers
"""
DATA = "INSERT INTO blob_data SELECT id, randomblob(20) FROM blobs"
PINS = "INSERT INTO pins SELECT 'a', id, 'test', 0 FROM blobs"
OWNERS = "INSERT INTO owners VALUES ('a', :n, 20 * :n, NULL), ('', :n, 20 * :n, NULL)"
HALVES = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100) "


async def fill(store: BlobStore, num_blobs: int) -> None:
    """As many rows as so many puts would have made."""

    def insert(connection: Connection) -> None:
        connection.exec_driver_sql(BLOBS, {"first": 1, "last": num_blobs})
        connection.exec_driver_sql(DATA)
        connection.exec_driver_sql(PINS)
        connection.exec_driver_sql(OWNERS, {"n": num_blobs})
        connection.exec_driver_sql(
            HALVES + "INSERT INTO doomed_files SELECT 'blobs/00/' || i FROM n"
        )

    await store.db.write(insert, durable=True)


async def start_up(folder: Path, num_blobs: int) -> float:
    """Seconds that it takes to open a store of so many blobs, and answer from it."""
    async with open_store(folder, NATIVE) as store:
        await fill(store, num_blobs)
    begun = time.perf_counter()
    async with open_store(folder, NATIVE) as store:
        name = Multihash(f"{num_blobs:032}".encode())
        assert await store.size(name) == 20
        assert await store.usage("a") == StoreUsage(num_blobs=num_blobs, num_bytes=20 * num_blobs)
        return time.perf_counter() - begun


async def test_start_up_does_not_grow_with_the_blobs(folder: Path) -> None:
    assert await start_up(folder, 20_000) < 1.0


@pytest.mark.heavy
async def test_start_up_with_a_million_blobs(folder: Path) -> None:
    assert await start_up(folder, 1_000_000) < 1.0


async def test_nobody_else_can_look_or_write_into_the_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)

    async with open_store(folder, NATIVE):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
async def test_a_folder_of_somebody_who_lets_others_write_is_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    os.chown(folder, 12345, -1)

    async with open_store(folder, NATIVE):
        pass

    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "others can write in the store's folder"
    ]


async def test_what_is_not_ours_does_not_keep_a_store_from_opening(folder: Path) -> None:
    async with open_store(folder, NATIVE) as store:
        await fill(store, 1)
    (folder / "tmp" / "lost+found").mkdir()
    (folder / "tmp" / "link").symlink_to(folder / "tmp" / "lost+found")
    (folder / "tmp" / "half").write_bytes(b"half")

    async with open_store(folder, NATIVE):
        assert [path.name for path in (folder / "tmp").iterdir()] == ["lost+found"]


async def test_more_doomed_files_than_a_statement_takes(folder: Path) -> None:
    num_files = 40_000

    def doom_many(connection: Connection) -> None:
        doom(connection, (f"blobs/00/{number}" for number in range(num_files)))

    async with open_store(folder, NATIVE) as store:
        await store.db.write(doom_many, durable=True)
    async with open_store(folder, NATIVE) as store:
        assert await store.db.read(load_doomed) == []


async def test_a_database_that_is_gone_is_not_begun_anew_over_its_blobs(folder: Path) -> None:
    database = folder / "store.sqlite"
    async with open_store(folder, NATIVE) as store:
        blob = await store.put(bytes(200_000), owner="a", reason="test")
    kept = database.read_bytes()

    for lose in (database.unlink, lambda: database.write_bytes(b"")):
        lose()
        with pytest.raises(ConfigError, match="Restore it from a copy"):
            async with open_store(folder, NATIVE):
                pass

    database.write_bytes(kept)
    async with open_store(folder, NATIVE) as store:
        assert await store.get(blob.multihash, max_bytes=200_000) == bytes(200_000)
