"""PostgreSQL: a schema on a server, which one session holds for as long as it lives."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

import asyncpg
from sqlalchemy import Connection, Engine, NullPool
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from fabstir.db._backend import WriteSide
from fabstir.db._migrate import is_current
from fabstir.db._postgresql_faults import (
    FAILURES,
    drop,
    is_away,
    is_of_the_server,
    opening_error,
    patiently,
    server_error,
)
from fabstir.db._postgresql_target import Target
from fabstir.db._postgresql_writing import CALLED, PostgresqlWriting
from fabstir.db.schema import Schema
from fabstir.primitives.errors import FabstirError

T = TypeVar("T")

_CONNECT_SECONDS: Final = 5
_ANSWER_SECONDS: Final = 60.0
"""For one statement. A server that is silent for longer is taken for lost."""


class PostgresqlBackend:
    """A schema of a database on a server.

    Args:
        password: of the user in the URL; None: what the driver finds (~/.pgpass), or none.
        may_begin: whether tables are made where there are none.

    Raises:
        ConfigError: the URL is wrong.
    """

    def __init__(self, url: str, schema: Schema, password: str | None, *, may_begin: bool) -> None:
        self._target = Target.parse(url)
        self._schema = schema
        self._password = password
        self._may_begin = may_begin

    @property
    def place(self) -> str:
        """The server, the database and the schema."""
        return self._target.place

    def run(self, work: Callable[[], None]) -> None:
        """The driver is asynchronous: it works in this thread's own event loop."""
        asyncio.run(greenlet_spawn(work))

    @contextmanager
    def writing(self, closing: threading.Event) -> Generator[WriteSide]:
        """Hold the schema alone."""
        engine = self._engine(read_only=False)
        side = PostgresqlWriting(engine, self._target, closing)
        try:
            try:
                side.open(self._schema, may_begin=self._may_begin)
            except FAILURES as exc:
                raise opening_error(exc, self.place) from exc
            yield side
        finally:
            side.close()
            engine.dispose()

    @contextmanager
    def reading(self) -> Generator[_PostgresqlReading]:
        """Beside whoever writes."""
        engine = self._engine(read_only=True)
        side = _PostgresqlReading(engine, self.place)
        try:
            yield side
        finally:
            side.close()
            engine.dispose()

    def is_ready(self) -> bool:
        """Whether the schema has this version's tables."""
        found: list[bool] = []
        failed: list[FabstirError] = []

        def look() -> None:
            try:
                with self.reading() as side:
                    found.append(side.look(lambda c: is_current(c, self._schema)))
            except FAILURES as exc:
                failed.append(opening_error(exc, self.place))
                failed[0].__cause__ = exc

        self.run(look)
        if failed:
            raise failed[0]
        return found[0]

    def _engine(self, *, read_only: bool) -> Engine:
        async def connect() -> Any:
            return await cast("Any", asyncpg).connect(  # which has no types
                self._target.dsn,
                password=self._password,
                timeout=_CONNECT_SECONDS,
                command_timeout=_ANSWER_SECONDS,
                server_settings={
                    "application_name": f"{CALLED}process {os.getpid()} on {socket.gethostname()}",
                    "search_path": self._target.schema,
                },
            )

        options: dict[str, Any] = {}
        if read_only:
            # A read of several statements sees one state, as SQLite's does.
            options["isolation_level"] = "REPEATABLE READ"
            options["execution_options"] = {"postgresql_readonly": True}
        made = create_async_engine(
            "postgresql+asyncpg://", async_creator=connect, poolclass=NullPool, **options
        )
        return made.sync_engine


class _PostgresqlReading:
    def __init__(self, engine: Engine, place: str) -> None:
        self._engine = engine
        self._place = place
        self._connection: Connection | None = None

    def read(self, fn: Callable[[Connection], T]) -> T:
        try:
            return self.look(fn)
        except FAILURES as exc:
            if is_of_the_server(exc):
                raise server_error(exc, self._place, "read") from exc
            raise

    def look(self, fn: Callable[[Connection], T]) -> T:
        """As `read`, with the driver's errors."""
        return patiently(lambda: self._look(fn))

    def _look(self, fn: Callable[[Connection], T]) -> T:
        connection = self._connection = self._connection or self._engine.connect()
        try:
            with connection.begin():
                return fn(connection)
        except FAILURES as exc:
            if connection.invalidated or is_away(exc):
                self.close()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            drop(connection)
