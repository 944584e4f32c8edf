"""What only PostgreSQL has: a server that goes away, sessions that are lost, two that want one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import anyio
import pytest
from sqlalchemy import Connection
from tests.integration.db.cutting import Cut, open_wire
from tests.integration.db.rows import add, count, numbers
from tests.postgresql import PASSWORD, PostgresServer, open_server

from fabstir.db import _postgresql_faults as faults
from fabstir.db import _postgresql_writing as writing
from fabstir.db import open_database
from fabstir.primitives.errors import ConfigError, StorageError

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.needs("initdb")]


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """One that tests may stop and crash."""
    with open_server() as server:
        yield server


@pytest.fixture
def server(own_server: PostgresServer) -> PostgresServer:
    own_server.start()
    return own_server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_PATIENCE_SECONDS", 0.3)


async def restart(server: PostgresServer, how: signal.Signals = signal.SIGINT) -> None:
    await anyio.to_thread.run_sync(server.stop, how)
    await anyio.to_thread.run_sync(server.start)


async def refusal(url: str, password: str | None = None) -> str:
    with pytest.raises((ConfigError, StorageError)) as caught:
        async with open_database(url, password=password):
            pass
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


# -- a server that goes away --------------------------------------------------------------------


async def test_a_server_that_starts_again_is_not_noticed(server: PostgresServer) -> None:
    async with open_database(server.url()) as db:
        await db.write(add(1), durable=False)
        assert await db.read(count) == 1
        await restart(server)

        await db.write(add(2), durable=True)
        await restart(server)

        assert await db.read(count) == 2


async def test_a_server_that_stops_in_the_middle_of_a_transaction_costs_nothing(
    server: PostgresServer,
) -> None:
    """The functions run again on the next connection: all of them, and none twice."""
    num_runs = 0

    def stop_in_the_middle(connection: Connection) -> None:
        nonlocal num_runs
        num_runs += 1
        add(1)(connection)
        if num_runs == 1:
            server.stop()
            server.start()
        add(2)(connection)

    async with open_database(server.url()) as db:
        await db.write(stop_in_the_middle, durable=True)
        await db.write(add(3), durable=True)

        assert num_runs == 2
        assert await db.read(numbers) == {1, 2, 3}


async def test_a_group_that_loses_its_connection_is_written_once(server: PostgresServer) -> None:
    entered, release = threading.Event(), threading.Event()

    def block(_connection: Connection) -> None:
        entered.set()
        release.wait()

    url = server.url()
    async with open_database(url) as db, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: db.write(block, durable=False))
        await anyio.to_thread.run_sync(entered.wait)
        for number in range(20):
            tasks.start_soon(lambda n=number: db.write(add(n), durable=n % 2 == 0))
        await anyio.wait_all_tasks_blocked()
        await restart(server)
        release.set()

    async with open_database(url) as db:
        assert await db.read(numbers) == set(range(20))


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_is_away_is_named_and_awaited(server: PostgresServer) -> None:
    async with open_database(server.url()) as db:
        await db.write(add(1), durable=True)
        server.stop()
        with pytest.raises(StorageError, match=r"cannot be written now: .* is away \(.*refused"):
            await db.write(add(2), durable=True)
        with pytest.raises(StorageError, match=r"cannot be read now: .* is away"):
            await db.read(count)
        await anyio.to_thread.run_sync(server.start)

        await db.write(add(3), durable=True)

        assert await db.read(numbers) == {1, 3}


async def test_a_crash_of_the_server_takes_no_money(server: PostgresServer) -> None:
    async with open_database(server.url()) as db:
        await db.write(add(1), durable=False)
        await db.write(add(2), durable=True)
        await restart(server, signal.SIGQUIT)

        await db.write(add(3), durable=True)

        assert await db.read(numbers) == {1, 2, 3}


async def test_a_process_that_knows_more_than_a_crashed_server_writes_no_more(
    server: PostgresServer,
) -> None:
    """It would go on from rows that are not there. A start reads what is there."""
    url = server.url()
    server.sql("ALTER SYSTEM SET wal_writer_delay = '10s'")
    server.sql("SELECT pg_reload_conf()")
    async with open_database(url) as db:
        await db.write(add(1), durable=True)
        await db.write(add(2), durable=False)
        await restart(server, signal.SIGQUIT)

        for _ in range(2):
            with pytest.raises(StorageError, match=r"has lost what it had confirmed .* start this"):
                await db.write(add(3), durable=False)

    async with open_database(url) as db:
        assert await db.read(numbers) == {1}


# -- a commit whose answer never came -----------------------------------------------------------


@pytest.mark.parametrize("cut", Cut)
async def test_a_commit_in_doubt_is_looked_up(server: PostgresServer, cut: Cut) -> None:
    num_runs = 0

    def write(connection: Connection) -> None:
        nonlocal num_runs
        num_runs += 1
        add(1)(connection)

    async with (
        open_wire(server.port) as wire,
        open_database(server.url(port=wire.port)) as db,
    ):
        await db.write(add(0), durable=True)
        wire.cut = cut

        await db.write(write, durable=True)

        assert num_runs == (1 if cut is Cut.AFTER else 2)
        assert await db.read(numbers) == {0, 1}


@pytest.mark.usefixtures("impatient")
async def test_nobody_is_told_that_a_commit_in_doubt_failed(
    server: PostgresServer,
) -> None:
    """However long the server is away: other writes fail soon, that one waits."""
    done: list[int] = []

    async def write() -> None:
        await db.write(add(1), durable=True)
        done.append(1)

    async with (
        open_wire(server.port) as wire,
        open_database(server.url(port=wire.port)) as db,
        anyio.create_task_group() as tasks,
    ):
        wire.cut, wire.is_down = Cut.AFTER, True
        tasks.start_soon(write)
        await wire.was_cut.wait()
        while wire.num_refused < 10:  # one each tenth of a second: three times its patience
            await wire.refused.wait()
        assert not done
        wire.is_down = False

    assert done


# -- two that want one ---------------------------------------------------------------------------


async def test_a_process_that_lost_its_place_writes_no_more(server: PostgresServer) -> None:
    url = server.url()
    async with open_database(url) as db:
        await db.write(add(1), durable=True)
        await restart(server)
        async with open_database(url) as other:
            await other.write(add(2), durable=True)
            with pytest.raises(StorageError, match=r"taken over by process \d+ on .* stop one"):
                await db.write(add(3), durable=True)

        for _ in range(2):
            with pytest.raises(StorageError, match="another process has taken it over"):
                await db.write(add(3), durable=True)
        assert await db.read(numbers) == {1, 2}


async def test_a_host_and_a_renter_share_a_database(server: PostgresServer) -> None:
    host, renter = server.url(schema="both_host"), server.url(schema="both_renter")

    async with open_database(host) as one, open_database(renter) as two:
        await one.write(add(1), durable=True)

        assert (await one.read(count), await two.read(count)) == (1, 0)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_a_wrong_password_is_refused(server: PostgresServer, password: str | None) -> None:
    said = await refusal(server.url(user="locked"), password)

    assert "does not let this user in: password authentication failed" in said or (
        password is None and "password" in said
    )


async def test_the_right_password_opens(server: PostgresServer) -> None:
    async with open_database(server.url(user="locked"), password=PASSWORD) as db:
        await db.write(add(1), durable=True)
        assert await db.read(count) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_does_not_answer_is_named() -> None:
    said = await refusal("postgresql://fabstir@127.0.0.1:1/fabstir")

    assert "127.0.0.1:1/fabstir (schema fabstir) cannot be used as the database now" in said
    assert "see whether the server runs" in said


async def test_a_database_that_is_not_there_is_named(server: PostgresServer) -> None:
    said = await refusal(f"postgresql://fabstir@127.0.0.1:{server.port}/nowhere")

    assert 'database "nowhere" does not exist. Make it with `createdb`' in said


async def test_a_server_that_is_too_old_is_refused(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MIN_VERSION", 99)

    assert "which is too old: use 99 or later" in await refusal(server.url())


async def test_a_server_that_keeps_no_promises_is_refused(server: PostgresServer) -> None:
    server.sql("ALTER SYSTEM SET fsync = off")
    server.sql("SELECT pg_reload_conf()")
    try:
        assert "fsync = off, so a power cut may take money back" in await refusal(server.url())
    finally:
        server.sql("ALTER SYSTEM RESET fsync")
        server.sql("SELECT pg_reload_conf()")


async def test_a_server_without_encryption_is_not_asked_twice(server: PostgresServer) -> None:
    said = await refusal(f"{server.url()}&sslmode=require")

    assert "cannot be reached by an encrypted connection" in said
    assert "?sslmode=disable" in said


async def test_tables_are_begun_only_where_nothing_was_lost(server: PostgresServer) -> None:
    with pytest.raises(ConfigError, match="has no tables, and the journal was in use before"):
        async with open_database(server.url(), may_begin=False):
            pass


async def test_whoever_may_make_no_schema_is_told(server: PostgresServer) -> None:
    server.sql("CREATE ROLE guest LOGIN")

    assert "GRANT CREATE ON DATABASE" in await refusal(server.url(user="guest"))
