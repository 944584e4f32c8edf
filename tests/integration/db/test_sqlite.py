"""What only SQLite has: a file with a mode, room kept on its disk, and locks of other programs."""

from __future__ import annotations

import sqlite3
import stat
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection
from tests.integration.db.rows import add, count
from tests.integration.db.schemas import made, migrated
from tests.open_files import no_more_open_files

from fabstir.db import JOURNAL, Database, Schema, open_database, open_reader
from fabstir.db import _sqlite as sqlite_module
from fabstir.primitives.errors import ConfigError, StorageError, StorageFull
from fabstir.s5.tables import S5, blobs, scrubs

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/data/journal.db"


@pytest.fixture
async def db(url: str) -> AsyncGenerator[Database]:
    async with open_database(url) as database:
        yield database


async def test_a_full_disk_fails_only_what_does_not_fit(db: Database) -> None:
    def fill(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO chains VALUES (9, zeroblob(1000000))")

    def limit(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 10}")

    failures: list[StorageError] = []

    async def try_to_fill() -> None:
        try:
            await db.write(fill, durable=True)
        except StorageError as exc:
            failures.append(exc)

    await db.write(limit, durable=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: db.write(add(1), durable=True))
        tasks.start_soon(try_to_fill)
        tasks.start_soon(lambda: db.write(add(2), durable=True))

    assert isinstance(failures[0], StorageFull)
    assert "disk is full" in str(failures[0])
    assert await db.read(count) == 2


async def test_the_files_are_their_owners_alone(db: Database) -> None:
    await db.write(add(1), durable=True)

    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in Path(db.place).parent.iterdir()
    }

    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize("schema", [S5], ids=lambda schema: schema.what)
async def test_every_schema_is_what_its_code_declares_and_what_migrations_make(
    tmp_path: Path, schema: Schema
) -> None:
    async with open_database(f"sqlite:///{tmp_path}/x.db", schema) as db:
        at_once = await db.read(lambda c: made(c, schema))
        by_migrations = await db.write(lambda c: migrated(c, schema), durable=True)

    assert at_once == by_migrations
    assert at_once.differences == []


async def test_older_tables_are_migrated_at_open(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    async with open_database(url, S5) as db:
        newest = await db.read(lambda c: made(c, S5))
        await db.write(_as_of_the_first_revision, durable=True)

    async with open_database(url, S5) as db:
        assert await db.read(lambda c: made(c, S5)) == newest


def _as_of_the_first_revision(connection: Connection) -> None:
    scrubs.scrubs.drop(connection)
    blobs.DAMAGED.drop(connection)
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")


_MAKE_BOTH = """
import sys
import anyio
from fabstir.db import JOURNAL, open_database
from fabstir.s5.tables import S5

async def main():
    for url, schema in zip(sys.argv[1:], (JOURNAL, S5), strict=True):
        async with open_database(url, schema):
            pass

anyio.run(main)
"""


async def test_a_program_that_has_not_imported_the_tables_makes_all_of_them(tmp_path: Path) -> None:
    urls = {f"sqlite:///{tmp_path}/{n}.db": schema for n, schema in enumerate((JOURNAL, S5))}

    await anyio.run_process([sys.executable, "-c", _MAKE_BOTH, *urls])

    for url, schema in urls.items():
        async with open_database(url, schema) as db:
            by_itself = await db.read(lambda c, schema=schema: made(c, schema))
            assert by_itself == await db.write(
                lambda c, schema=schema: migrated(c, schema), durable=True
            )


async def test_a_damaged_file_is_named(url: str) -> None:
    async with open_database(url) as db:
        await db.write(lambda c: [add(number)(c) for number in range(2_000)], durable=False)
        path = Path(db.place)
    data = bytearray(path.read_bytes())
    data[-20 * 4096 :] = b"\xff" * (20 * 4096)
    path.write_bytes(data)

    async with open_database(url) as db:
        with pytest.raises(StorageError, match=r"journal.db cannot be read: .*malformed"):
            await db.read(lambda c: c.exec_driver_sql("SELECT * FROM chains").all())


async def test_a_lost_database_is_no_new_one_to_a_reader(url: str, tmp_path: Path) -> None:
    async with open_database(url):
        pass
    (tmp_path / "data" / "journal.db").write_bytes(b"")

    with pytest.raises(ConfigError, match="gone or empty"):
        async with open_reader(url):
            pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to look like one\n" * 100)

    with pytest.raises(ConfigError, match=r"notes.txt cannot be used as the database: .*not a dat"):
        async with open_database(f"sqlite:///{path}"):
            pass


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://localhost/x", "'mysql' are not supported"),
        ("nonsense", "not a database URL"),
        ("sqlite://", "needs a file"),
    ],
)
async def test_other_urls_are_refused(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        async with open_database(url):
            pass


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="cannot be opened"):
        async with open_database(f"sqlite:///{tmp_path}/file/x.db"):
            pass


async def test_a_database_that_cannot_be_opened_again_is_an_error_of_storage(db: Database) -> None:
    """As with too many open files: whoever asks gets an error that the doors know."""
    with no_more_open_files(), pytest.raises(StorageError, match="unable to open"):
        await db.read(count)

    assert await db.read(count) == 0


async def test_many_writes_wait_once_for_a_lock_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "_BUSY_TIMEOUT_SECONDS", 0.5)
    errors: list[str] = []

    async def write(number: int) -> None:
        with pytest.raises(StorageError, match="database is locked") as caught:
            await db.write(add(number), durable=False)
        errors.append(str(caught.value))

    async with open_database(f"sqlite:///{tmp_path}/locked.sqlite") as db:
        await db.write(add(0), durable=False)
        other = sqlite3.connect(tmp_path / "locked.sqlite")
        other.execute("BEGIN IMMEDIATE")
        with anyio.fail_after(5):  # 20 waits would take ten seconds
            async with anyio.create_task_group() as tasks:
                for number in range(1, 21):
                    tasks.start_soon(write, number)
        other.close()
        await db.write(add(21), durable=False)
        assert await db.read(count) == 2

    assert len(errors) == 20
    assert "what else has the file open" in errors[0]
