"""What SQLite and PostgreSQL do differently, as the writer and the readers need it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum, auto
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from fabstir.primitives.errors import StorageError

T = TypeVar("T")


class TransactionLost(Exception):
    """The database rolled everything back by itself; the cause says why."""


class Verdict(Enum):
    """What becomes of a group of writes whose transaction failed."""

    AGAIN = auto()
    """Nothing of it is stored, and it is worth another try as it is."""
    EACH = auto()
    """Not the fault of them all: each gets its own transaction."""
    ALL = auto()
    """All fail, for the same reason."""
    COMMITTED = auto()
    """It is stored: only the answer was lost."""


class WriteSide(Protocol):
    """The one connection that writes. Only the writer thread uses it."""

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What `transaction` raises where the database failed."""
        ...

    def transaction(self, *, durable: bool) -> AbstractContextManager[Connection]:
        """A transaction for the length of the block; leaving it commits.

        Args:
            durable: whether the commit survives a power cut.

        Raises:
            StorageError: nothing can be written now; the block was not entered.
        """
        ...

    def is_lost(self) -> bool:
        """Whether the database has rolled the open transaction back by itself."""
        ...

    def is_fault(self, error: BaseException) -> bool:
        """Whether the database failed, and not the statement."""
        ...

    def judge(self, error: BaseException) -> Verdict:
        """Decide about a group whose transaction failed, and mend what can be mended."""
        ...

    def explain(self, error: BaseException) -> StorageError:
        """The error that callers get, with the cause and the fix."""
        ...


class ReadSide(Protocol):
    """A connection that cannot write. Only one thread uses it."""

    def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on one snapshot. Raises StorageError where the database failed."""
        ...


class Backend(Protocol):
    """One database of one kind. `writing` and `reading` work inside `run` only."""

    @property
    def place(self) -> str:
        """Where it is, as errors name it; without any password."""
        ...

    def run(self, work: Callable[[], None]) -> None:
        """Call `work`, which may use the database; a thread's outermost call."""
        ...

    def writing(self, closing: threading.Event) -> AbstractContextManager[WriteSide]:
        """Hold the database alone, with its tables up to date, for the length of the block.

        Args:
            closing: is set when nobody waits for long any more.
        """
        ...

    def reading(self) -> AbstractContextManager[ReadSide]:
        """Read beside whoever holds it, for the length of the block."""
        ...

    def is_ready(self) -> bool:
        """Whether there are tables, of this version. Blocks; outside `run`."""
        ...
