"""The writer thread: takes what is queued, runs each in a savepoint, commits once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection

from fabstir.db._backend import Backend, TransactionLost, Verdict, WriteSide
from fabstir.primitives.errors import StorageError

T = TypeVar("T")

_MAX_GROUP = 256
"""Most writes in one commit. Measured 0.2 ms a write, so the first of a full group waits 50 ms for
the last at most, and 256 of them share one fsync."""


class _Write:
    """One queued function and the future that its caller waits on."""

    __slots__ = ("durable", "error", "fn", "future", "value")

    def __init__(self, fn: Callable[[Connection], Any], *, durable: bool) -> None:
        self.fn = fn
        self.durable = durable
        self.future: Future[Any] = Future()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self, connection: Connection, side: WriteSide) -> None:
        """Call the function in a savepoint.

        Raises:
            TransactionLost: the database rolled everything back, also what others wrote before.
        """
        self.value = self.error = None
        savepoint = connection.begin_nested()
        try:
            self.value = self.fn(connection)
            savepoint.commit()
        except BaseException as exc:
            self.error = exc
            if side.is_lost():
                raise TransactionLost from exc
            savepoint.rollback()
            if side.is_fault(exc):
                raise  # inside a statement: a large transaction is written before it is committed

    def report(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Writer:
    """Owns the only connection that writes."""

    def __init__(self, backend: Backend) -> None:
        self.opened: Future[None] = Future()
        """Completes when the database is open, or fails with why it cannot be."""
        self._backend = backend
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=backend.run, args=(self._run,), name="db-writer")

    def start(self) -> None:
        """Open the database."""
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, and let go of the database. Blocks."""
        with self._lock:
            self._closing.set()
            self._queue.put(None)
        self._thread.join()

    def submit(self, fn: Callable[[Connection], T], *, durable: bool) -> Future[T]:
        """Queue `fn`; the future completes after the commit that holds it."""
        write = _Write(fn, durable=durable)
        with self._lock:
            if self._closing.is_set():
                raise StorageError(f"{self._backend.place} was closed before this write")
            self._queue.put(write)
        return write.future

    def _run(self) -> None:
        try:
            with self._backend.writing(self._closing) as side:
                self.opened.set_result(None)
                self._work(side)
        except BaseException as exc:
            if self.opened.done():
                raise
            self.opened.set_exception(exc)

    def _work(self, side: WriteSide) -> None:
        while True:
            group, is_last = self._take()
            if group:
                self._commit(side, group)
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

    def _commit(self, side: WriteSide, group: list[_Write]) -> None:
        try:
            with side.transaction(durable=any(write.durable for write in group)) as connection:
                for write in group:
                    write.run(connection, side)
        except StorageError as exc:
            for write in group:
                write.error = exc
        except (TransactionLost, *side.failures) as exc:
            cause = exc.__cause__ if isinstance(exc, TransactionLost) else None
            if not self._recover(side, group, cause or exc):
                return
        for write in group:
            write.report()

    def _recover(self, side: WriteSide, group: list[_Write], cause: BaseException) -> bool:
        """After a group's transaction failed. Returns whether its writes are to be reported yet."""
        verdict = side.judge(cause)
        if verdict is Verdict.AGAIN:
            self._commit(side, group)
            return False
        if verdict is Verdict.EACH and len(group) > 1:
            for write in group:
                self._commit(side, [write])
            return False
        if verdict is not Verdict.COMMITTED:
            for write in group:
                write.error = side.explain(cause)
                write.error.__cause__ = cause
        return True
