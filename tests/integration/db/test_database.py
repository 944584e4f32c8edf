"""The journal on both engines: commits, locks, kills, migrations."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import anyio
import pytest
from sqlalchemy import Connection, literal, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from tests.integration.db.rows import add, count, numbers
from tests.integration.db.schemas import made, migrated

from fabstir.db import JOURNAL, Database, open_database, open_reader
from fabstir.db.chains import bind_chain, bound_chain
from fabstir.db.host_sessions import use_ephemeral_key
from fabstir.db.schema import PeerText
from fabstir.primitives.errors import ConfigError, StorageError
from fabstir.primitives.ids import ChainId, Hash32, JobId

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


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
    with pytest.raises(DBAPIError, match=r"read-?only"):
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


async def test_two_processes_cannot_write_one_journal(db: Database, database_url: str) -> None:
    code = f"""
import asyncio
from fabstir.db import open_database

async def main():
    async with open_database({database_url!r}):
        print("opened")

asyncio.run(main())
"""

    done = await anyio.run_process([sys.executable, "-c", code], check=False)

    assert done.returncode != 0
    assert f"ConfigError: the database {db.place} is in use by process {os.getpid()}" in (
        done.stderr.decode()
    )


async def test_a_journal_opens_again(database_url: str) -> None:
    async with open_database(database_url) as db:
        await db.write(add(1), durable=False)

    async with open_database(database_url) as db:
        assert await db.read(count) == 1


async def test_writing_after_the_block_says_so(database_url: str) -> None:
    async with open_database(database_url) as db:
        pass

    with pytest.raises(StorageError, match="was closed"):
        await db.write(add(1), durable=True)


async def test_the_tables_are_what_the_code_declares_and_what_migrations_make(
    db: Database,
) -> None:
    at_once = await db.read(lambda c: made(c, JOURNAL))
    by_migrations = await db.write(lambda c: migrated(c, JOURNAL), durable=True)

    assert at_once == by_migrations
    assert at_once.differences == []


async def test_a_caught_error_of_a_statement_spoils_nothing(db: Database) -> None:
    """A handshake that is seen twice is found out by its key, inside a larger transaction."""

    def write(connection: Connection) -> tuple[bool, bool]:
        first = use_ephemeral_key(connection, b"k" * 33, JobId(1))
        again = use_ephemeral_key(connection, b"k" * 33, JobId(1))
        add(1)(connection)
        return first, again

    assert await db.write(write, durable=True) == (True, False)
    assert await db.read(count) == 1


async def test_text_that_no_database_keeps_stops_no_transaction(db: Database) -> None:
    text = "a\0reason \ud800 with \u00e9verything"

    kept = await db.write(lambda c: c.scalar(select(literal(text, PeerText))), durable=True)

    assert kept == "a\ufffdreason \ufffd with \u00e9verything"


async def test_big_chain_ids_and_amounts_are_kept(db: Database) -> None:
    largest = ChainId(2**53 - 1)
    genesis = Hash32("0x" + "ab" * 32)

    await db.write(lambda c: bind_chain(c, largest, genesis), durable=True)

    assert await db.read(lambda c: bound_chain(c, largest)) == genesis


async def test_a_database_is_read_beside_whoever_holds_it(database_url: str) -> None:
    async with open_database(database_url) as db:
        await db.write(add(1), durable=True)
        async with open_reader(database_url) as reader:
            before = await reader.read(count)
            await db.write(add(2), durable=True)
            after = await reader.read(count)
            with pytest.raises(DBAPIError, match=r"read-?only"):
                await reader.read(add(3))

    assert (before, after) == (1, 2)


async def test_a_database_that_nobody_has_made_yet_is_made_and_then_free(database_url: str) -> None:
    async with open_reader(database_url) as reader:
        assert await reader.read(count) == 0
        async with open_database(database_url) as db:
            await db.write(add(1), durable=True)
        assert await reader.read(count) == 1


async def test_a_newer_journal_is_refused(database_url: str) -> None:
    newer = "UPDATE alembic_version SET version_num = '9999'"
    async with open_database(database_url) as db:
        await db.write(lambda c: c.exec_driver_sql(newer), durable=True)

    with pytest.raises(ConfigError, match=r"newer version \(revision 9999\): update fabstir"):
        async with open_database(database_url):
            pass


_WRITER = """
import asyncio, sys
from fabstir.db import open_database
from tests.integration.db.rows import add

async def main():
    async with open_database(sys.argv[1]) as db:
        async def write(number):
            await db.write(add(number), durable=number % 3 == 0)
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


async def test_sigkill_loses_no_acknowledged_write(database_url: str) -> None:
    acknowledged: set[int] = set()

    for attempt, num_lines in enumerate((1, 7, 61, 200)):
        acknowledged |= await anyio.to_thread.run_sync(
            kill_writer, database_url, attempt, num_lines
        )

    async with open_database(database_url) as db:
        rows = await db.read(numbers)
    assert acknowledged <= rows
    assert len(acknowledged) >= 269
