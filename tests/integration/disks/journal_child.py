"""A journal of money on a disk that is full; run by test_full_disks.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection
from tests import small_disk

from fabstir.db import open_database
from fabstir.primitives.errors import StorageFull


def main(disk: Path) -> None:
    small_disk.mount(disk, 4 << 20)
    anyio.run(use, disk)


async def use(disk: Path) -> None:
    url = f"sqlite:///{disk}/host.sqlite"
    async with open_database(url) as db:
        await db.write(lambda c: add(c, 1), durable=True)
        # Full while it runs: what moves money is noted all the same.
        somebody_elses = small_disk.fill(disk)
        for number in range(2, 20):
            await db.write(lambda c, n=number: add(c, n), durable=True)
    somebody_elses.unlink()
    async with open_database(url) as db:
        assert await db.read(count) == 19

    # Full while nothing runs: it opens, and notes more.
    small_disk.fill(disk)
    async with open_database(url) as db:
        for number in range(20, 30):
            await db.write(lambda c, n=number: add(c, n), durable=True)
        assert await db.read(count) == 29

    # Full, and nothing is kept for it any more: named, and nothing is lost.
    reserve = disk / "host.sqlite.reserve"
    os.truncate(reserve, 0)
    small_disk.fill(disk)
    with pytest.raises(StorageFull, match="bytes are free") as caught:
        async with open_database(url):
            pass
    assert "away" not in str(caught.value), caught.value
    somebody_elses.unlink()
    async with open_database(url) as db:
        assert await db.read(count) == 29
    assert reserve.stat().st_size == 1 << 20, "kept again"


def add(connection: Connection, number: int) -> None:
    connection.exec_driver_sql("INSERT INTO chains VALUES (?, ?)", (number, "x" * 5000))


def count(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM chains").scalar_one())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
