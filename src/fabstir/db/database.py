"""The database file: one writer thread, group commit, and readers that never wait for it.

Measured on an NVMe disk: a commit with `synchronous=FULL` takes 3.0 ms, with NORMAL 0.012 ms.
So money moves ask for `durable=True`, metering does not, and whatever is queued at the same time
shares one commit. Neither can be lost by SIGKILL: a commit is in the file before it is reported.
NORMAL can lose the last commits when the machine itself loses power.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, SQLAlchemyError

from fabstir.db._migrate import is_current, migrate
from fabstir.db._writer import (
    Writer,
    disk_error,
    is_full_disk,
    is_io_error,
    is_of_the_disk,
)
from fabstir.db.files import free_bytes, is_full, make_private_folder, open_own
from fabstir.db.lock import locked
from fabstir.db.reserve import Reserve
from fabstir.db.schema import JOURNAL, Schema
from fabstir.primitives.errors import ConfigError, FabstirError, StorageFull

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_BUSY_TIMEOUT_SECONDS = 5.0
"""How long SQLite waits for another process's reader (a backup, a sqlite3 shell)."""

_RESERVE_BYTES = 1 << 20
"""Kept for a journal on a full disk: it is opened with 32 KiB, and the last claims, closes and
withdrawals of a hundred sessions wrote 0.4 MB."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_NUM_READERS = 2
"""Reads take well below a millisecond; two threads keep a long report from blocking the rest."""


class DatabaseReader:
    """A database that can be read. Made by `open_reader`; usable until its block is left."""

    def __init__(self, path: Path, readers: ThreadPoolExecutor, engine: Engine) -> None:
        self.path = path
        self._readers = readers
        self._read_engine = engine

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on a connection that cannot write; it sees every write that has returned.

        Raises:
            StorageError: the file is damaged or cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, fn)

    def _read(self, fn: Callable[[Connection], T]) -> T:
        try:
            with self._read_engine.connect() as connection, connection.begin():
                return fn(connection)
        except DatabaseError as exc:
            if is_of_the_disk(exc):
                raise disk_error(exc, self.path, "read") from exc
            raise


class Database(DatabaseReader):
    """An open database. Made by `open_database`; usable until its block is left."""

    def __init__(
        self, path: Path, writer: Writer, readers: ThreadPoolExecutor, engine: Engine
    ) -> None:
        super().__init__(path, readers, engine)
        self._writer = writer
        self._held: set[str] = set()

    @contextmanager
    def hold(self, what: str) -> Generator[None]:
        """Be the only one in this process that writes `what`, for the length of the block.

        Raises:
            ConfigError: somebody else is.
        """
        if what in self._held:
            raise ConfigError(f"{what} of {self.path} are in use already: share the open one")
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
                may run twice, when another one spoils the transaction that they share.
            durable: also survive a power cut (an fsync, milliseconds): for all that moves money.

        Raises:
            StorageError: the file cannot be written (a full disk); nothing of `fn` is stored.
        """
        return await asyncio.wrap_future(self._writer.submit(fn, durable=durable))


def make_data_folder(folder: Path) -> None:
    """Make the folder of a journal, as `make_private_folder`.

    Raises:
        ConfigError: it cannot be made.
        StorageFull: the disk has no room for it.
    """
    try:
        make_private_folder(folder)
    except OSError as exc:
        raise _opening_error(exc, folder) from exc


@asynccontextmanager
async def open_database(
    url: str, schema: Schema = JOURNAL, *, reserve: Reserve | None = None
) -> AsyncGenerator[Database]:
    """Open (or create) a database, bring its tables up to date, and hold it alone.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`. The file is readable by its
            owner only.
        schema: which tables it holds; a file holds those of one schema only.
        reserve: the room that is given up where the disk is too full to open it, and filled again
            afterwards; given up by writes only if the caller does it. None: one beside the file,
            which writes give up by themselves.

    Raises:
        ConfigError: another process has the file, it was written by a newer version, it is not a
            database, it was lost, or the URL is not one of SQLite.
        StorageFull: its disk is full.
        StorageError: its disk is failing.
    """
    path = _sqlite_path(url, schema)
    is_kept_by_us = reserve is None
    kept = reserve or Reserve(path.with_name(path.name + ".reserve"), _RESERVE_BYTES)
    with (
        locked(path.with_name(path.name + ".lock"), what=f"the database {path}"),
        kept.filled_at_last(),
        _engine(path) as engine,
        _engine(path, read_only=True) as read_engine,
    ):
        connection = await asyncio.to_thread(_prepare, path, schema, kept, engine)
        with (
            Writer(connection, path, kept if is_kept_by_us else None) as writer,
            ThreadPoolExecutor(_NUM_READERS, "db-reader") as readers,
        ):
            yield Database(path, writer, readers, read_engine)


@asynccontextmanager
async def open_reader(url: str, schema: Schema = JOURNAL) -> AsyncGenerator[DatabaseReader]:
    """Read a database beside whoever holds it. Where nobody has made it yet, or brought its tables
    up to date, that is done first, alone.

    Args:
        url, schema: as of `open_database`.

    Raises:
        ConfigError, StorageError: as `open_database`.
    """
    path = _sqlite_path(url, schema)
    with _engine(path, read_only=True) as engine:
        if not await asyncio.to_thread(_is_ready, path, schema, engine):
            async with open_database(url, schema):
                pass
        with ThreadPoolExecutor(_NUM_READERS, "db-reader") as readers:
            yield DatabaseReader(path, readers, engine)


def _is_ready(path: Path, schema: Schema, engine: Engine) -> bool:
    try:
        with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
            if not file.read(1):  # SQLite would remove the log of a database whose file is empty
                return False
        with engine.connect() as connection:
            return is_current(connection, schema)
    except FileNotFoundError:
        return False
    except (SQLAlchemyError, OSError) as exc:
        raise _opening_error(exc, path) from exc


def _sqlite_path(url: str, schema: Schema) -> Path:
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigError(f"{url!r} is not a database URL: write sqlite:///path/to/file") from exc
    if parsed.get_backend_name() != "sqlite":
        raise ConfigError(
            f"databases of the kind {parsed.get_backend_name()!r} are not supported yet: "
            "write sqlite:///path/to/file"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigError(f"{schema.what} needs a file to survive a crash: sqlite:///path/to/file")
    return Path(parsed.database)


def _prepare(path: Path, schema: Schema, reserve: Reserve, engine: Engine) -> Connection:
    """The connection that writes, with what a full disk needs for that, and all migrations run.

    Raises:
        ConfigError, StorageError: as `open_database`.
    """
    try:
        connection = _open(path, schema, reserve, engine)
    except (SQLAlchemyError, OSError) as exc:
        if not _is_full(exc, path) or not reserve.spend():
            raise _opening_error(exc, path) from exc
        _LOG.warning(
            "the disk is full: the room that was kept for it is given up to open the database",
            extra={"path": str(path), "free_bytes": free_bytes(path.parent)},
        )
        try:
            connection = _open(path, schema, reserve, engine)
        except (SQLAlchemyError, OSError) as again:
            raise _opening_error(again, path) from again
    # Only now: while it is open, SQLite keeps what it took of the disk.
    reserve.fill()
    return connection


def _open(path: Path, schema: Schema, reserve: Reserve, engine: Engine) -> Connection:
    # Before anything opens it: SQLite would remove the log of a database whose file is empty.
    if reserve.was_begun and not (path.exists() and path.stat().st_size):
        raise _lost(path, schema, reserve)
    # With mode 0600, before SQLite would make it with another one; and no file of somebody else's.
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        _close_to_others(descriptor)
    finally:
        os.close(descriptor)
    with ExitStack() as stack:
        connection = stack.enter_context(engine.connect())
        if not migrate(connection, path, schema, may_begin=not reserve.was_begun):
            raise _lost(path, schema, reserve)
        stack.pop_all()
    return connection


def _close_to_others(descriptor: int) -> None:
    """A copy that somebody restored may have any mode; SQLite gives it to the files beside it."""
    found = os.fstat(descriptor)
    if found.st_mode & _OTHERS and found.st_uid == os.geteuid():
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~_OTHERS)


def _lost(path: Path, schema: Schema, reserve: Reserve) -> ConfigError:
    """No database is begun in the place of one that was lost."""
    return ConfigError(
        f"{path} is gone or empty, and {schema.what} was in use before ({reserve.path} says so): "
        "nothing else knows what it held. Restore it from a copy; or, to begin anew without all "
        "that, move both files away"
    )


def _is_full(error: SQLAlchemyError | OSError, path: Path) -> bool:
    return is_full(error) if isinstance(error, OSError) else is_full_disk(error, path)


def _opening_error(error: SQLAlchemyError | OSError, path: Path) -> FabstirError:
    """What to raise where a database cannot be opened."""
    if isinstance(error, OSError):
        if is_full(error):
            return StorageFull(
                f"{path} cannot be made: its disk is full ({free_bytes(path.parent)} bytes are "
                "free to this user). Free disk space, and do it again"
            )
        return ConfigError(
            f"{path} cannot be made or opened: {error.strerror}. See who owns it, or choose "
            "another place (paths.data_dir)"
        )
    if isinstance(error, DatabaseError) and is_of_the_disk(error):
        found = disk_error(error, path, "used as the database")
        return found if is_full_disk(error, path) or is_io_error(error) else ConfigError(str(found))
    return ConfigError(
        f"{path} cannot be used as the database: {error.__cause__ or error}. Keep it: see who owns "
        "it, and whether it is what the setting should name; or put a sound copy in its place"
    )


@contextmanager
def _engine(path: Path, *, read_only: bool = False) -> Generator[Engine]:
    engine = create_engine(
        f"sqlite:///{path}",
        pool_size=_NUM_READERS,
        connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_SECONDS},
    )

    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own idea of when transactions begin breaks savepoints: switched off, and
        # `begin` below says it instead.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        # Zeroes are written over removed rows, but not over whole pages, as builds of Linux
        # distributions do: removing 15 MB of blobs would write 18 MB, on a disk that may be full.
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute(f"PRAGMA query_only = {int(read_only)}")

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    try:
        yield engine
    finally:
        engine.dispose()
