"""The session that writes: it holds a lock, counts its commits, and comes back when it was lost.

What SQLite's file lock does, an advisory lock does here. It belongs to the connection that writes,
so what that connection commits was written by whoever held the lock. When the connection is lost,
so is the lock, and another process may take it: a row in the schema (`holders`) says whose the
tables are, and how many groups of writes it has committed. Each group counts it up, so after a
lost connection it also tells whether the last commit went through.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateSchema

from fabstir.db._backend import Verdict
from fabstir.db._migrate import migrate
from fabstir.db._postgresql_faults import (
    FAILURES,
    drop,
    is_away,
    is_of_the_server,
    is_taken,
    patiently,
    server_error,
    text_of,
)
from fabstir.db._postgresql_target import Target
from fabstir.db.schema import Schema
from fabstir.primitives.errors import ConfigError, FabstirError, StorageError

_LOG = logging.getLogger(__name__)

MIN_VERSION: Final = 14
"""Older ones get no more security fixes, and do not have all settings of a session below."""

_LOCK_SECONDS: Final = 2.0
"""How long a lock is waited for: a session whose process was killed may still be ending."""

_LOCK_CLASS: Final = 0x46414253
"""Advisory locks are numbers that everybody shares; this half of ours reads "FABS"."""

_MAX_LOST: Final = 3
"""Connections that one group of writes may lose before it is given up: it may be the reason."""

_SESSION: Final = {
    # A machine that vanished without a word would keep its lock for two hours.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    # Ours holds the lock, and may have nothing to write for days.
    "idle_session_timeout": "0",
}

_own = MetaData()

holders: Final = Table(
    "holders",
    _own,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(36), nullable=False),
    Column("num_commits", BigInteger, nullable=False),
)
"""One row: who holds the schema, and how many groups of writes it has committed."""

CALLED: Final = "fabstir "
"""How the name of a session of ours begins, as the server's administrator sees it."""

_SET: Final = text("SELECT set_config(:name, :value, :is_local)")

_FACTS: Final = text(
    "SELECT CAST(current_setting('server_version_num') AS integer) / 10000 AS version, "
    "pg_is_in_recovery() AS is_standby, current_setting('server_encoding') AS encoding, "
    "current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS level"
)

_WHO_ANSWERS: Final = text(
    "SELECT pid, CAST(backend_start AS text) AS started_at "
    "FROM pg_stat_activity WHERE pid = pg_backend_pid()"
)

_END_SESSION: Final = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE pid = :pid AND CAST(backend_start AS text) = :at"
)

_LOCK_HOLDER: Final = text(
    "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 "
    "AND l.classid = CAST(:class AS bigint) AND l.objid = CAST(:key AS bigint) "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

_SCHEMA_IS_THERE: Final = text("SELECT 1 FROM pg_namespace WHERE nspname = :schema")

_COUNT: Final = text(
    "UPDATE holders SET num_commits = :number WHERE id = 1 AND holder = :holder "
    "RETURNING pg_backend_pid() AS pid, set_config('synchronous_commit', :level, true)"
)


def _check_server(connection: Connection, place: str) -> str:
    """Refuse a server that keeps no promises.

    Returns:
        How it commits what is durable.

    Raises:
        ConfigError: says what is wrong with it.
    """
    row = connection.execute(_FACTS).one()
    if row.version < MIN_VERSION:
        raise ConfigError(
            f"{place} is PostgreSQL {row.version}, which is too old: use {MIN_VERSION} or later"
        )
    if row.is_standby:
        raise ConfigError(f"{place} is a standby, which cannot be written: name the primary")
    if row.encoding != "UTF8":
        raise ConfigError(
            f"{place} keeps text as {row.encoding}: make the database with `createdb -E UTF8`"
        )
    if row.fsync != "on":
        raise ConfigError(
            f"{place} runs with fsync = {row.fsync}, so a power cut may take money back: set fsync "
            "= on in the server's postgresql.conf"
        )
    return "remote_apply" if row.level == "remote_apply" else "on"


@dataclass(frozen=True, slots=True)
class _Session:
    """The server's process that answers a connection."""

    pid: int
    started_at: str


class PostgresqlWriting:
    """The only session that writes to a schema."""

    failures: tuple[type[Exception], ...] = FAILURES

    def __init__(self, engine: Engine, target: Target, closing: threading.Event) -> None:
        self._engine = engine
        self._target = target
        self._closing = closing
        self._holder = str(uuid.uuid4())
        self._level = "on"
        self._connection: Connection | None = None
        """Holds the lock; None: lost."""
        self._session: _Session | None = None
        self._num_commits = 0
        self._is_committing = False
        self._is_stored = False
        """Whether the commit that a lost connection left in doubt went through."""
        self._num_lost = 0
        self._ended: StorageError | None = None
        """Why this process writes nothing any more."""
        self._failure: StorageError | None = None
        """Why the server was not there again."""

    # -- open and close -------------------------------------------------------------------------

    def open(self, schema: Schema, *, may_begin: bool) -> None:
        """Take the lock, make the tables, and say whose they are.

        Raises:
            ConfigError: another process has the lock, the server is too old, or the tables are of
                a newer version, or gone.
        """
        place = self._target.place
        connection, self._session = patiently(self._connect)
        self._connection = connection
        if not self._take_lock(connection):
            raise ConfigError(
                f"the database {place} is in use by {self._lock_holder(connection)}: stop that "
                "process, or give this one another database, or another database.schema"
            )
        with connection.begin():
            # Looked up first: who may not make schemas may not even try to make one that is there.
            if not connection.scalar(_SCHEMA_IS_THERE, {"schema": self._target.schema}):
                connection.execute(CreateSchema(self._target.schema))
        if not migrate(connection, place, schema, may_begin=may_begin):
            raise ConfigError(
                f"{place} has no tables, and {schema.what} was in use before: correct "
                "database.url, or restore the database from a copy"
            )
        with connection.begin():
            _own.create_all(connection)
            values = {"holder": self._holder, "num_commits": 0}
            if not connection.execute(update(holders).values(values)).rowcount:
                connection.execute(insert(holders).values(id=1, **values))

    def close(self) -> None:
        """Let go of the lock, with the connection."""
        self._drop()

    def _connect(self) -> tuple[Connection, _Session]:
        """Raises ConfigError: the server keeps no promises (any more: it may be another one)."""
        connection = self._engine.connect()
        with _dropped_on_failure(connection), connection.begin():
            self._level = _check_server(connection, self._target.place)
            for name, value in _SESSION.items():
                connection.execute(_SET, {"name": name, "value": value, "is_local": False})
            row = connection.execute(_WHO_ANSWERS).one()
            return connection, _Session(row.pid, row.started_at)

    def _take_lock(self, connection: Connection) -> bool:
        timeout = {"name": "lock_timeout", "value": f"{_LOCK_SECONDS}s", "is_local": True}
        try:
            with connection.begin():
                connection.execute(_SET, timeout)
                connection.execute(text("SELECT pg_advisory_lock(:class, :key)"), self._lock)
        except SQLAlchemyError as exc:
            if is_taken(exc):
                return False
            raise
        return True

    @property
    def _lock(self) -> dict[str, int]:
        digest = hashlib.sha256(self._target.schema.encode()).digest()
        return {"class": _LOCK_CLASS, "key": int.from_bytes(digest[:4], "big") >> 1}

    def _lock_holder(self, connection: Connection) -> str:
        """As it calls itself. The server tells that to members of its role alone."""
        with connection.begin():
            name: str | None = connection.scalar(_LOCK_HOLDER, self._lock)
        return (name or "another process").removeprefix(CALLED)

    # -- writing --------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, durable: bool) -> Generator[Connection]:
        if self._ended is not None:
            raise self._ended
        connection = self._connection or self._connect_again(is_in_doubt=False)
        with connection.begin():
            self._count(connection, self._level if durable else "off")
            yield connection
            self._is_committing = True
        self._is_committing = False
        self._has_committed()

    def _has_committed(self) -> None:
        self._num_commits += 1
        self._num_lost = 0

    def _count(self, connection: Connection, level: str) -> None:
        """Count the group, in its own transaction; the tables must still be ours."""
        values = {"holder": self._holder, "number": self._num_commits + 1, "level": level}
        row = connection.execute(_COUNT, values).first()
        if row is None:
            raise self._end("another process has taken it over")
        if self._session is None or row.pid != self._session.pid:
            raise self._end(
                "a pooler gives one connection to several sessions, which no lock survives; "
                "connect to the server itself, or set the pooler to session mode"
            )

    def _end(self, reason: str) -> StorageError:
        """Nothing is written any more; the error that says so."""
        self._ended = StorageError(
            f"{self._target.place} is not written by this process any more: {reason}. What was "
            "confirmed is kept, as far as the server has it: start this process again"
        )
        _LOG.error("the database is not written any more", extra={"reason": reason})
        return self._ended

    def is_lost(self) -> bool:
        return self._connection is None or self._connection.invalidated

    def is_fault(self, error: BaseException) -> bool:
        return isinstance(error, FAILURES) and is_of_the_server(error)

    def explain(self, error: BaseException) -> StorageError:
        failure, self._failure = self._failure, None
        return failure or server_error(error, self._target.place, "written")

    # -- after a lost connection ----------------------------------------------------------------

    def judge(self, error: BaseException) -> Verdict:
        is_in_doubt, self._is_committing = self._is_committing, False
        if not is_away(error) and not self.is_lost():
            return Verdict.EACH
        self._num_lost += 1
        _LOG.warning("the connection to the database was lost", extra={"reason": text_of(error)})
        self._drop()
        try:
            self._connect_again(is_in_doubt=is_in_doubt)
        except StorageError as exc:
            self._failure = exc
            return Verdict.ALL
        if self._is_stored:
            self._has_committed()
            return Verdict.COMMITTED
        if self._num_lost < _MAX_LOST:
            return Verdict.AGAIN
        self._num_lost = 0
        return Verdict.ALL

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            drop(connection)

    def _connect_again(self, *, is_in_doubt: bool) -> Connection:
        """Connect, and take the lock again.

        Args:
            is_in_doubt: a commit was on its way. Then this waits for as long as it takes: nobody
                is told that nothing was stored while that may not be so.

        Raises:
            StorageError: the server is away, or the tables are not ours any more.
        """
        try:
            self._connection = patiently(
                self._rejoin, may_end=lambda: not is_in_doubt or self._closing.is_set()
            )
        except (*FAILURES, ConfigError, StorageError) as exc:
            is_ours = isinstance(exc, FabstirError)
            error = exc if is_ours else server_error(exc, self._target.place, "written")
            if is_in_doubt or not isinstance(error, StorageError):
                doubt = " (it is not known whether this write is stored)" if is_in_doubt else ""
                error = StorageError(f"{error}{doubt}")
            raise error from exc
        return self._connection

    def _rejoin(self) -> Connection:
        before, self._is_stored = self._session, False
        connection, session = self._connect()
        with _dropped_on_failure(connection):
            if before is not None:
                # The server may not know yet that nobody is there, and so keep our lock for it.
                with connection.begin():
                    connection.execute(_END_SESSION, {"pid": before.pid, "at": before.started_at})
            if not self._take_lock(connection):
                raise StorageError(
                    f"{self._target.place} was taken over by {self._lock_holder(connection)} while "
                    "the connection to it was lost: stop one of the two"
                )
            self._check_count(connection)
        self._session = session
        return connection

    def _check_count(self, connection: Connection) -> None:
        with connection.begin():
            stored: int | None = connection.scalar(
                select(holders.c.num_commits).where(holders.c.holder == self._holder)
            )
        if stored is None:
            raise self._end("another process has taken it over")
        if stored < self._num_commits:
            raise self._end(
                "the server has lost what it had confirmed (it crashed, or a copy took its place), "
                "so this process remembers more than it"
            )
        self._is_stored = stored > self._num_commits


@contextmanager
def _dropped_on_failure(connection: Connection) -> Generator[None]:
    try:
        yield
    except BaseException:
        drop(connection)
        raise
