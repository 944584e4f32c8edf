"""SQLite: one file, which one process holds, with room kept for it on a disk that is full."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from fabstir.db._backend import ReadSide, Verdict, WriteSide
from fabstir.db._migrate import is_current, migrate
from fabstir.db.files import free_bytes, has_room, is_full, open_own
from fabstir.db.lock import locked
from fabstir.db.reserve import Reserve
from fabstir.db.schema import Schema
from fabstir.primitives.errors import ConfigError, FabstirError, StorageError, StorageFull

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_BUSY_TIMEOUT_SECONDS = 5.0
"""How long SQLite waits for another process's reader (a backup, a sqlite3 shell)."""

_RESERVE_BYTES = 1 << 20
"""Kept for a journal on a full disk: it is opened with 32 KiB, and the last claims, closes and
withdrawals of a hundred sessions wrote 0.4 MB."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_SYNC_FAILED = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})

_PRIMARY_CODE = 0xFF
"""SQLite's extended error codes keep the plain one in their lowest byte."""

_OF_THE_DISK = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
    }
)

_MAYBE_FULL = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
"""What SQLite says where there is no room for the files beside the database."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_REFILL_SECONDS = 60.0
"""How often a reserve that was spent is tried to be filled again."""


class SqliteBackend:
    """A file. Made of a URL such as `sqlite:////var/lib/fabstir/host.sqlite`.

    Args:
        reserve: given up where the disk is too full to open the file, and filled again afterwards;
            given up by writes only if the caller does it. None: one beside the file, which writes
            give up by themselves.

    Raises:
        ConfigError: the URL names no file.
    """

    def __init__(self, url: URL, schema: Schema, reserve: Reserve | None) -> None:
        if not url.database or url.database == ":memory:":
            raise ConfigError(
                f"{schema.what} needs a file to survive a crash: sqlite:///path/to/file"
            )
        self._path = Path(url.database)
        self._schema = schema
        self._is_reserve_ours = reserve is None
        self._reserve = reserve or Reserve(
            self._path.with_name(self._path.name + ".reserve"), _RESERVE_BYTES
        )

    @property
    def place(self) -> str:
        """The file."""
        return str(self._path)

    def run(self, work: Callable[[], None]) -> None:
        """Nothing has to be there first."""
        work()

    @contextmanager
    def writing(self, closing: threading.Event) -> Generator[WriteSide]:
        """Hold the file alone."""
        path, reserve = self._path, self._reserve
        with (
            locked(path.with_name(path.name + ".lock"), what=f"the database {path}"),
            reserve.filled_at_last(),
            _engine(path) as engine,
            _prepare(path, self._schema, reserve, engine) as connection,
        ):
            yield _SqliteWriting(connection, path, reserve if self._is_reserve_ours else None)

    @contextmanager
    def reading(self) -> Generator[ReadSide]:
        """Beside whoever writes: a read never waits for a write."""
        with _engine(self._path, read_only=True) as engine:
            yield _SqliteReading(self._path, engine)

    def is_ready(self) -> bool:
        """Whether the file is there, with this version's tables."""
        try:
            with os.fdopen(open_own(self._path, os.O_RDONLY), "rb") as file:
                # SQLite would remove the log of a database whose file is empty.
                if not file.read(1):
                    return False
            with (
                _engine(self._path, read_only=True) as engine,
                engine.connect() as connection,
                connection.begin(),
            ):
                return is_current(connection, self._schema)
        except FileNotFoundError:
            return False
        except (SQLAlchemyError, OSError) as exc:
            raise opening_error(exc, self._path) from exc


class _SqliteReading:
    def __init__(self, path: Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine

    def read(self, fn: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection, connection.begin():
                return fn(connection)
        except DatabaseError as exc:
            if _is_of_the_disk(exc):
                raise _disk_error(exc, self._path, "read") from exc
            raise


class _SqliteWriting:
    """Args:
    reserve: given up by itself where the disk is full; None: whoever writes decides that.
    """

    failures: tuple[type[Exception], ...] = (SQLAlchemyError, sqlite3.Error)

    def __init__(self, connection: Connection, path: Path, reserve: Reserve | None) -> None:
        self._connection = connection
        self._path = path
        self._reserve = reserve
        self._refill_at = 0.0
        self._lost_sync: BaseException | None = None

    @contextmanager
    def transaction(self, *, durable: bool) -> Generator[Connection]:
        self._refuse_after_lost_sync()
        # SQLite allows this only between transactions, so it bypasses SQLAlchemy's own begin.
        self._raw.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        with self._connection.begin():
            yield self._connection
        self._refill()

    @property
    def _raw(self) -> sqlite3.Connection:
        raw = self._connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection), "the engine is SQLite's"
        return raw

    def is_lost(self) -> bool:
        return not self._raw.in_transaction  # as on a full disk

    def is_fault(self, error: BaseException) -> bool:
        return isinstance(error, DatabaseError) and _is_of_the_disk(error)

    def judge(self, error: BaseException) -> Verdict:
        if _code(error) in _SYNC_FAILED:
            self._lost_sync = error
        elif self._spend_for(error):
            return Verdict.AGAIN
        # Where another process has the file locked, each would wait for the whole timeout.
        return Verdict.ALL if _is_busy(error) else Verdict.EACH

    def explain(self, error: BaseException) -> StorageError:
        return _disk_error(error, self._path, "written")

    def _spend_for(self, error: BaseException) -> bool:
        """Give the reserve up if the disk is full. Returns whether it is worth another try."""
        if self._reserve is None or not _is_full_disk(error, self._path):
            return False
        if not self._reserve.spend():
            return False
        _LOG.error(
            "the disk is full, and what was kept of it for the journal is in use: free disk space",
            extra={"path": str(self._path), "free_bytes": free_bytes(self._path.parent)},
        )
        self._refill_at = time.monotonic() + _REFILL_SECONDS
        return True

    def _refill(self) -> None:
        if self._reserve is not None and self._refill_at < time.monotonic():
            self._reserve.fill()
            self._refill_at = time.monotonic() + _REFILL_SECONDS

    def _refuse_after_lost_sync(self) -> None:
        """The kernel tells of pages that it could not write once, and calls them clean from then
        on. A later commit would be flushed, and reported, behind a hole in the log: a power cut
        would take it back. Reading the log anew, as an open does, leaves none.
        """
        if self._lost_sync is not None:
            raise StorageError(
                f"{self._path} could not be flushed to the disk: nothing more is written until "
                "the disk is seen to and this process is started again"
            ) from self._lost_sync


def _disk_error(cause: BaseException, path: Path, what: str) -> StorageError:
    """What to raise where SQLite failed: StorageFull where there is no room on the disk.

    No advice here may cost anything: what a database holds is nowhere else.
    """
    origin = getattr(cause, "orig", cause)
    if _is_full_disk(cause, path):
        return StorageFull(
            f"{path} cannot be {what}: its disk is full ({free_bytes(path.parent)} bytes are free "
            f"to this user; {origin}). Nothing is lost: free disk space, and do it again"
        )
    if _code(cause) & _PRIMARY_CODE in _DAMAGED:
        return StorageError(
            f"{path} cannot be {what}: {origin}. Keep it, with the files of its name beside it, "
            "and put a sound copy in its place; see whether the disk is failing"
        )
    return StorageError(
        f"{path} cannot be {what}: {origin}. See whether the disk is failing, or what else has the "
        "file open"
    )


def _is_full_disk(error: BaseException, path: Path) -> bool:
    """Whether SQLite failed for want of room, which it says plainly only of the database itself."""
    code = _code(error) & _PRIMARY_CODE
    return code == sqlite3.SQLITE_FULL or (code in _MAYBE_FULL and not has_room(path.parent))


def _is_io_error(error: BaseException) -> bool:
    """Whether reading or writing failed."""
    return _code(error) & _PRIMARY_CODE == sqlite3.SQLITE_IOERR


def _is_of_the_disk(error: DatabaseError) -> bool:
    """Whether SQLite failed because of the disk or the file, not because of the statement."""
    return _code(error) & _PRIMARY_CODE in _OF_THE_DISK


def _code(error: BaseException) -> int:
    return getattr(getattr(error, "orig", error), "sqlite_errorcode", 0)


def _is_busy(error: BaseException) -> bool:
    return _code(error) & _PRIMARY_CODE == sqlite3.SQLITE_BUSY


@contextmanager
def _prepare(path: Path, schema: Schema, reserve: Reserve, engine: Engine) -> Generator[Connection]:
    """The connection that writes, with what a full disk needs for that, and all migrations run."""
    try:
        connection = _open(path, schema, reserve, engine)
    except (SQLAlchemyError, OSError) as exc:
        if not _is_full(exc, path) or not reserve.spend():
            raise opening_error(exc, path) from exc
        _LOG.warning(
            "the disk is full: the room that was kept for it is given up to open the database",
            extra={"path": str(path), "free_bytes": free_bytes(path.parent)},
        )
        try:
            connection = _open(path, schema, reserve, engine)
        except (SQLAlchemyError, OSError) as again:
            raise opening_error(again, path) from again
    with connection:
        # Only now: while it is open, SQLite keeps what it took of the disk.
        reserve.fill()
        yield connection


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
        if not migrate(connection, str(path), schema, may_begin=not reserve.was_begun):
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
    return is_full(error) if isinstance(error, OSError) else _is_full_disk(error, path)


def opening_error(error: SQLAlchemyError | OSError, path: Path) -> FabstirError:
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
    if isinstance(error, DatabaseError) and _is_of_the_disk(error):
        found = _disk_error(error, path, "used as the database")
        return (
            found if _is_full_disk(error, path) or _is_io_error(error) else ConfigError(str(found))
        )
    return ConfigError(
        f"{path} cannot be used as the database: {error.__cause__ or error}. Keep it: see who owns "
        "it, and whether it is what the setting should name; or put a sound copy in its place"
    )


@contextmanager
def _engine(path: Path, *, read_only: bool = False) -> Generator[Engine]:
    engine = create_engine(
        f"sqlite:///{path}", pool_size=1, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS}
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
