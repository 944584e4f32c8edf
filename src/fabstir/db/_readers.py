"""The reader threads, each with a connection of its own that cannot write."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection

from fabstir.db._backend import Backend, ReadSide
from fabstir.primitives.errors import StorageError

T = TypeVar("T")

_NUM_READERS = 2
"""Reads take well below a millisecond; two threads keep a long report from blocking the rest."""

_Read = tuple[Callable[[Connection], Any], Future[Any]]


class Readers:
    """Two threads and their queue."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._queue: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=backend.run, args=(self._run,), name=f"db-reader_{number}")
            for number in range(_NUM_READERS)
        ]

    def start(self) -> None:
        """Wait for reads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what is queued. Blocks."""
        with self._lock:
            self._closing.set()
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, fn: Callable[[Connection], T]) -> Future[T]:
        """Queue `fn`; the future completes with what it returns or raises."""
        future: Future[T] = Future()
        with self._lock:
            if self._closing.is_set():
                raise StorageError(f"{self._backend.place} was closed before this read")
            self._queue.put((fn, future))
        return future

    def _run(self) -> None:
        item = self._queue.get()
        if item is None:
            return
        with self._backend.reading() as side:
            while item is not None:
                _answer(side, *item)
                item = self._queue.get()


def _answer(side: ReadSide, fn: Callable[[Connection], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        found = side.read(fn)
    except BaseException as exc:  # noqa: BLE001 - whoever waits for it gets it
        future.set_exception(exc)
    else:
        future.set_result(found)
