"""An open database: one writer thread, group commit, and readers that never wait for it.

Measured on an NVMe disk: a commit of SQLite with `synchronous=FULL` takes 3.0 ms, with NORMAL 0.012
ms. So money moves ask for `durable=True`, metering does not, and whatever is queued at the same
time shares one commit. Neither can be lost by SIGKILL of this process: a commit is in the file, or
on the server, before it is reported. What is not durable can be lost where the machine of the
database loses power.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import anyio
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from fabstir.db._backend import Backend
from fabstir.db._readers import Readers
from fabstir.db._sqlite import SqliteBackend
from fabstir.db._writer import Writer
from fabstir.db.reserve import Reserve
from fabstir.db.schema import JOURNAL, Schema
from fabstir.primitives.errors import ConfigError

T = TypeVar("T")

_FORMS = "sqlite:///path/to/file or postgresql://user@host/database"


class DatabaseReader:
    """A database that can be read. Made by `open_reader`; usable until its block is left.

    Attributes:
        place: where it is, for people: a file, or a server and what is there.
    """

    def __init__(self, place: str, readers: Readers) -> None:
        self.place = place
        self._readers = readers

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on a connection that cannot write; it sees every write that has returned.

        It may run twice, where a connection to a server was lost.

        Raises:
            StorageError: the database is damaged, away, or cannot be read.
        """
        return await asyncio.wrap_future(self._readers.submit(fn))


class Database(DatabaseReader):
    """An open database. Made by `open_database`; usable until its block is left."""

    def __init__(self, place: str, writer: Writer, readers: Readers) -> None:
        super().__init__(place, readers)
        self._writer = writer
        self._held: set[str] = set()

    @contextmanager
    def hold(self, what: str) -> Generator[None]:
        """Be the only one in this process that writes `what`, for the length of the block.

        Raises:
            ConfigError: somebody else is.
        """
        if what in self._held:
            raise ConfigError(f"{what} of {self.place} are in use already: share the open one")
        self._held.add(what)
        try:
            yield
        finally:
            self._held.discard(what)

    async def write(self, fn: Callable[[Connection], T], *, durable: bool) -> T:
        """Run `fn` in the writer thread, inside a transaction; return once it is committed.

        Writes run in the order of these calls. Those that wait at the same time share one commit,
        each in its own savepoint, so that one that fails takes nothing of the others with it.

        Args:
            fn: gets the connection; it must not commit, and whatever it raises is raised here. It
                may run twice, when another one spoils the transaction that they share, or the
                connection to a server is lost.
            durable: also survive a power cut (an fsync, milliseconds): for all that moves money.

        Raises:
            StorageError: the database cannot be written (a full disk, a server that is away);
                nothing of `fn` is stored, unless the text says that this is not known.
        """
        return await asyncio.wrap_future(self._writer.submit(fn, durable=durable))


@asynccontextmanager
async def open_database(
    url: str,
    schema: Schema = JOURNAL,
    *,
    reserve: Reserve | None = None,
    password: str | None = None,
    may_begin: bool = True,
) -> AsyncGenerator[Database]:
    """Open (or create) a database, bring its tables up to date, and hold it alone.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`: a file, readable by its owner
            only; or `postgresql://user@host/database?schema=name`.
        schema: which tables it holds; a file, or a PostgreSQL schema, holds those of one only.
        reserve: of a file: the room that is given up where the disk is too full to open it, and
            filled again afterwards; given up by writes only if the caller does it. None: one
            beside the file, which writes give up by themselves.
        password: of the server's user.
        may_begin: of a server: whether tables are made where there are none.

    Raises:
        ConfigError: another process has the database, it was written by a newer version, it is
            none, it was lost, or the URL names none.
        StorageFull: its disk is full.
        StorageError: its disk is failing, or its server does not answer.
    """
    backend = _backend(url, schema, reserve, password, may_begin=may_begin)
    writer, readers = Writer(backend), Readers(backend)
    async with _running(writer):
        await asyncio.wrap_future(writer.opened)
        async with _running(readers):
            yield Database(backend.place, writer, readers)


@asynccontextmanager
async def open_reader(
    url: str, schema: Schema = JOURNAL, *, password: str | None = None, may_begin: bool = True
) -> AsyncGenerator[DatabaseReader]:
    """Read a database beside whoever holds it. Where nobody has made it yet, or brought its tables
    up to date, that is done first, alone.

    Args and errors: as of `open_database`.
    """
    backend = _backend(url, schema, None, password, may_begin=may_begin)
    if not await asyncio.to_thread(backend.is_ready):
        async with open_database(url, schema, password=password, may_begin=may_begin):
            pass
    readers = Readers(backend)
    async with _running(readers):
        yield DatabaseReader(backend.place, readers)


@asynccontextmanager
async def _running(threads: Writer | Readers) -> AsyncGenerator[None]:
    threads.start()
    try:
        yield
    finally:
        # A server that is away is waited for: meanwhile the event loop has other things to do.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(threads.close, limiter=anyio.CapacityLimiter(1))


def _backend(
    url: str, schema: Schema, reserve: Reserve | None, password: str | None, *, may_begin: bool
) -> Backend:
    """Raises ConfigError: the URL names no database that can be used."""
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigError(f"that is not a database URL: write {_FORMS}") from exc
    match parsed.get_backend_name():
        case "sqlite":
            return SqliteBackend(parsed, schema, reserve)
        case "postgresql" | "postgres":
            # Only whoever uses it pays for the import, and needs the driver.
            try:
                from fabstir.db._postgresql import PostgresqlBackend
            except ModuleNotFoundError as exc:
                raise ConfigError(
                    f"PostgreSQL needs the package {exc.name}: pip install 'fabstir[postgres]'"
                ) from exc
            return PostgresqlBackend(url, schema, password, may_begin=may_begin)
        case other:
            raise ConfigError(f"databases of the kind {other!r} are not supported: write {_FORMS}")
