"""The writer thread: takes what is queued, runs each in a savepoint, commits once."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from fabstir.db.files import free_bytes, has_room
from fabstir.db.reserve import Reserve
from fabstir.primitives.errors import StorageError, StorageFull

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_GROUP = 256
"""Most writes in one commit. Measured 0.2 ms a write, so the first of a full group waits 50 ms for
the last at most, and 256 of them share one fsync."""

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


def disk_error(cause: BaseException, path: Path, what: str) -> StorageError:
    """What to raise where SQLite failed: StorageFull where there is no room on the disk.

    No advice here may cost anything: what a database holds is nowhere else.
    """
    origin = getattr(cause, "orig", cause)
    if is_full_disk(cause, path):
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


def is_full_disk(error: BaseException, path: Path) -> bool:
    """Whether SQLite failed for want of room, which it says plainly only of the database itself."""
    code = _code(error) & _PRIMARY_CODE
    return code == sqlite3.SQLITE_FULL or (code in _MAYBE_FULL and not has_room(path.parent))


def is_io_error(error: BaseException) -> bool:
    """Whether reading or writing failed."""
    return _code(error) & _PRIMARY_CODE == sqlite3.SQLITE_IOERR


def is_of_the_disk(error: DatabaseError) -> bool:
    """Whether SQLite failed because of the disk or the file, not because of the statement."""
    return _code(error) & _PRIMARY_CODE in _OF_THE_DISK


def _code(error: BaseException) -> int:
    return getattr(getattr(error, "orig", error), "sqlite_errorcode", 0)


def _is_busy(error: BaseException) -> bool:
    return _code(error) & _PRIMARY_CODE == sqlite3.SQLITE_BUSY


class _TransactionLost(Exception):
    """SQLite rolled everything back by itself, as it does on a full disk."""


class _Write:
    """One queued function and the future that its caller waits on."""

    __slots__ = ("durable", "error", "fn", "future", "value")

    def __init__(self, fn: Callable[[Connection], Any], *, durable: bool) -> None:
        self.fn = fn
        self.durable = durable
        self.future: Future[Any] = Future()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self, connection: Connection, raw: sqlite3.Connection) -> None:
        """Call the function in a savepoint.

        Raises:
            _TransactionLost: SQLite rolled everything back, also what others wrote before.
        """
        self.value = self.error = None
        savepoint = connection.begin_nested()
        try:
            self.value = self.fn(connection)
            savepoint.commit()
        except BaseException as exc:
            self.error = exc
            if not raw.in_transaction:
                raise _TransactionLost from exc
            savepoint.rollback()
            if isinstance(exc, DatabaseError) and is_of_the_disk(exc):
                raise  # inside a statement: a large transaction is written before it is committed

    def report(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Writer:
    """Owns the only connection that writes. A context manager: leaving it writes what is queued.

    Args:
        connection: becomes the writer's own, and is closed with it.
        reserve: given up by itself where the disk is full; None: whoever writes decides that.
    """

    def __init__(self, connection: Connection, path: Path, reserve: Reserve | None) -> None:
        self._connection = connection
        self._path = path
        self._reserve = reserve
        self._refill_at = 0.0
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._lost_sync: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="db-writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def submit(self, fn: Callable[[Connection], T], *, durable: bool) -> Future[T]:
        """Queue `fn`; the future completes after the commit that holds it."""
        write = _Write(fn, durable=durable)
        with self._lock:
            if self._closed:
                raise StorageError(f"{self._path} was closed before this write")
            self._queue.put(write)
        return write.future

    def _run(self) -> None:
        with self._connection as connection:
            while True:
                group, is_last = self._take()
                if group:
                    self._commit(connection, group)
                if is_last:
                    return

    def _take(self) -> tuple[list[_Write], bool]:
        """Wait for a write and take all that wait with it; True when the queue was closed."""
        group: list[_Write] = []
        item = self._queue.get()
        while item is not None:
            # A caller that was cancelled while it waited does not want its write any more.
            if item.future.set_running_or_notify_cancel():
                group.append(item)
            if len(group) == _MAX_GROUP or (group and self._queue.empty()):
                return group, False
            item = self._queue.get()
        return group, True

    def _commit(self, connection: Connection, group: list[_Write]) -> None:
        try:
            self._refuse_after_lost_sync()
            self._run_group(connection, group)
            self._refill()
        except StorageError as exc:
            for write in group:
                write.error = exc
        except (SQLAlchemyError, sqlite3.Error, _TransactionLost) as exc:
            if _code(exc) in _SYNC_FAILED:
                self._lost_sync = exc
            elif self._spend_for(group, exc):
                self._commit(connection, group)
                return
            if len(group) > 1 and not _is_busy(exc):
                # Not the fault of them all: each gets its own transaction. Where another process
                # has the file locked, each would wait for the whole timeout.
                for write in group:
                    self._commit(connection, [write])
                return
            for write in group:
                cause = write.error or exc
                write.error = disk_error(cause, self._path, "written")
                write.error.__cause__ = cause
        for write in group:
            write.report()

    def _spend_for(self, group: list[_Write], error: BaseException) -> bool:
        """Give the reserve up if the disk is full. Returns whether it is worth another try."""
        cause = next((write.error for write in group if write.error is not None), error)
        if self._reserve is None or not is_full_disk(cause, self._path):
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

    def _run_group(self, connection: Connection, group: list[_Write]) -> None:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection), "the engine is SQLite's"
        # SQLite allows this only between transactions, so it bypasses SQLAlchemy's own begin.
        is_durable = any(write.durable for write in group)
        raw.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
        with connection.begin():
            for write in group:
                write.run(connection, raw)
