"""The journal on a real SQLite file: commits, locks, migrations, full disks."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, OperationalError
from tests.open_files import no_more_open_files

from fabstir.db import JOURNAL, Database, Schema, open_database, open_reader
from fabstir.db import database as database_module
from fabstir.db.chains import bind_chain
from fabstir.primitives.errors import ConfigError, StorageError, StorageFull
from fabstir.primitives.ids import ChainId, Hash32
from fabstir.s5.tables import S5

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


def add(number: int) -> Any:
    """A write of one row."""

    def write(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO chains VALUES (?, ?)", (number, f"0x{number:064x}"))

    return write


def count(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM chains").scalar_one())


async def test_a_write_that_returned_is_read(db: Database) -> None:
    await db.write(add(1), durable=True)
    await db.write(add(2), durable=False)

    assert await db.read(count) == 2


async def test_the_value_of_a_write_comes_back(db: Database) -> None:
    genesis = Hash32("0x" + "ab" * 32)

    bound = await db.write(lambda c: bind_chain(c, ChainId(1), genesis), durable=True)
    again = await db.write(lambda c: bind_chain(c, ChainId(1), Hash32("0x")), durable=True)

    assert (bound, again) == (genesis, genesis)


async def test_a_failing_write_spoils_no_other_of_its_group(db: Database) -> None:
    failures: list[BaseException] = []
    entered, release = threading.Event(), threading.Event()

    def block(_connection: Connection) -> None:
        entered.set()
        release.wait()

    async def fail() -> None:
        try:
            await db.write(add(1), durable=False)
        except IntegrityError as exc:
            failures.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: db.write(block, durable=False))
        await anyio.to_thread.run_sync(entered.wait)
        tasks.start_soon(lambda: db.write(add(1), durable=False))
        tasks.start_soon(fail)
        tasks.start_soon(lambda: db.write(add(2), durable=True))
        await anyio.wait_all_tasks_blocked()
        release.set()

    assert len(failures) == 1
    assert await db.read(count) == 2


async def test_writes_keep_their_order(db: Database) -> None:
    order: list[int] = []

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(
                lambda n=number: db.write(lambda _: order.append(n), durable=n % 7 == 0)
            )

    assert order == list(range(100))


async def test_reads_do_not_wait_for_a_writer(db: Database) -> None:
    await db.write(add(1), durable=True)
    entered, release = threading.Event(), threading.Event()
    seen = 0

    def write(connection: Connection) -> None:
        add(2)(connection)
        entered.set()
        release.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: db.write(write, durable=True))
        await anyio.to_thread.run_sync(entered.wait)
        seen = await db.read(count)
        release.set()

    assert seen == 1
    assert await db.read(count) == 2


async def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(OperationalError, match="readonly"):
        await db.read(add(1))


async def test_a_cancelled_write_that_waits_does_not_happen(db: Database) -> None:
    entered, release = threading.Event(), threading.Event()

    def block(_connection: Connection) -> None:
        entered.set()
        release.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: db.write(block, durable=False))
        await anyio.to_thread.run_sync(entered.wait)
        with anyio.move_on_after(0):
            await db.write(add(1), durable=True)
        release.set()

    assert await db.read(count) == 0


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

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in db.path.parent.iterdir()}

    assert set(modes.values()) == {0o600}, modes


async def test_two_processes_cannot_write_one_journal(db: Database, url: str) -> None:
    code = f"""
import asyncio
from fabstir.db import open_database

async def main():
    async with open_database({url!r}):
        print("opened")

asyncio.run(main())
"""

    done = await anyio.run_process([sys.executable, "-c", code], check=False)

    assert done.returncode != 0
    assert f"ConfigError: the database {db.path} is in use by process {os.getpid()}" in (
        done.stderr.decode()
    )


async def test_a_journal_opens_again(url: str) -> None:
    async with open_database(url) as db:
        await db.write(add(1), durable=False)

    async with open_database(url) as db:
        assert await db.read(count) == 1


async def test_writing_after_the_block_says_so(url: str) -> None:
    async with open_database(url) as db:
        pass

    with pytest.raises(StorageError, match="was closed"):
        await db.write(add(1), durable=True)


@pytest.mark.parametrize("schema", [JOURNAL, S5], ids=lambda schema: schema.what)
async def test_every_schema_is_what_its_code_declares(tmp_path: Path, schema: Schema) -> None:
    async with open_database(f"sqlite:///{tmp_path}/x.db", schema) as db:
        differences = await db.read(
            lambda c: compare_metadata(MigrationContext.configure(c), schema.metadata)
        )

    assert differences == []


async def test_a_damaged_file_is_named(url: str) -> None:
    async with open_database(url) as db:
        await db.write(lambda c: [add(number)(c) for number in range(2_000)], durable=False)
        path = db.path
    data = bytearray(path.read_bytes())
    data[-20 * 4096 :] = b"\xff" * (20 * 4096)
    path.write_bytes(data)

    async with open_database(url) as db:
        with pytest.raises(StorageError, match=r"journal.db cannot be read: .*malformed"):
            await db.read(lambda c: c.exec_driver_sql("SELECT * FROM chains").all())


async def test_a_database_is_read_beside_whoever_holds_it(url: str) -> None:
    async with open_database(url) as db:
        await db.write(add(1), durable=True)
        async with open_reader(url) as reader:
            before = await reader.read(count)
            await db.write(add(2), durable=True)
            after = await reader.read(count)
            with pytest.raises(OperationalError, match="readonly"):
                await reader.read(add(3))

    assert (before, after) == (1, 2)


async def test_a_database_that_nobody_has_made_yet_is_made_and_then_free(url: str) -> None:
    async with open_reader(url) as reader:
        assert await reader.read(count) == 0
        async with open_database(url) as db:
            await db.write(add(1), durable=True)
        assert await reader.read(count) == 1


async def test_a_lost_database_is_no_new_one_to_a_reader(url: str, tmp_path: Path) -> None:
    async with open_database(url):
        pass
    (tmp_path / "data" / "journal.db").write_bytes(b"")

    with pytest.raises(ConfigError, match="gone or empty"):
        async with open_reader(url):
            pass


async def test_a_newer_journal_is_refused(url: str) -> None:
    newer = "UPDATE alembic_version SET version_num = '9999'"
    async with open_database(url) as db:
        await db.write(lambda c: c.exec_driver_sql(newer), durable=True)

    with pytest.raises(ConfigError, match=r"newer version \(revision 9999\): update fabstir"):
        async with open_database(url):
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
        ("postgresql://localhost/x", "'postgresql' are not supported yet"),
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


_WRITER = """
import asyncio, sys
from sqlalchemy import text
from fabstir.db import open_database

async def main():
    async with open_database(sys.argv[1]) as db:
        async def write(number):
            row = (number, "0x")
            await db.write(
                lambda c: c.exec_driver_sql("INSERT INTO chains VALUES (?, ?)", row),
                durable=number % 3 == 0,
            )
            print(number, flush=True)
        start = 1_000 * int(sys.argv[2])
        for first in range(start, start + 1_000, 5):
            await asyncio.gather(*(write(n) for n in range(first, first + 5)))

asyncio.run(main())
"""


def kill_writer(url: str, attempt: int, num_lines: int) -> set[int]:
    """Let a process write until it has acknowledged some rows, kill it, return which."""
    command = [sys.executable, "-c", _WRITER, url, str(attempt)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = {int(process.stdout.readline()) for _ in range(num_lines)}
        process.kill()
        return acknowledged | {int(line) for line in process.stdout if line.endswith("\n")}


async def test_sigkill_loses_no_acknowledged_write(url: str) -> None:
    acknowledged: set[int] = set()

    for attempt, num_lines in enumerate((1, 7, 61, 200)):
        acknowledged |= await anyio.to_thread.run_sync(kill_writer, url, attempt, num_lines)

    async with open_database(url) as db:
        rows = await db.read(
            lambda c: set(c.exec_driver_sql("SELECT chain_id FROM chains").scalars())
        )
    assert acknowledged <= rows
    assert len(acknowledged) >= 269


async def test_a_database_that_cannot_be_opened_again_is_an_error_of_storage(db: Database) -> None:
    """As with too many open files: whoever asks gets an error that the doors know."""
    with no_more_open_files(), pytest.raises(StorageError, match="unable to open"):
        await db.read(count)

    assert await db.read(count) == 0


async def test_many_writes_wait_once_for_a_lock_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_BUSY_TIMEOUT_SECONDS", 0.5)
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
