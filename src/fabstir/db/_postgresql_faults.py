"""What the errors of a PostgreSQL server, and of the way to it, mean for whoever uses it."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from typing import Final, TypeVar

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fabstir.primitives.errors import ConfigError, FabstirError, StorageError, StorageFull

T = TypeVar("T")

FAILURES: Final = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What the driver raises where the server, or the way to it, failed."""

_PATIENCE_SECONDS: Final = 5.0
"""How long a server that is away is waited for: about as long as it takes to start again."""

_PAUSE_SECONDS: Final = 0.1

_AWAY = frozenset({"57P01", "57P02", "57P03", "57P05", "53300"})
"""Stopping, crashed, starting, tired of an idle session; and no connection is left for us."""

_AWAY_CLASS = "08"
"""Connection exceptions. Source: appendix A of PostgreSQL's manual, as all codes here."""

_FULL = "53100"
_SERVER_CLASSES = frozenset({"40", "53", "57", "58", "XX"})
"""Conflicts, want of resources, an operator, the system below, and bugs."""

_LOGIN = frozenset({"28000", "28P01"})
_NO_DATABASE = "3D000"
_NOT_ALLOWED = "42501"
_IN_USE = "55P03"


def code_of(error: BaseException) -> str:
    """The server's SQLSTATE, or nothing where the server did not say it."""
    found: BaseException | None = error
    while found is not None:
        code = getattr(found, "sqlstate", None) or getattr(getattr(found, "orig", 0), "sqlstate", 0)
        if code:
            return str(code)
        found = found.__cause__
    return ""


def is_away(error: BaseException) -> bool:
    """Whether the connection is gone, or none could be made: it may be there again soon."""
    code = code_of(error)
    if code:
        return code in _AWAY or code.startswith(_AWAY_CLASS)
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error.orig, OSError)
    return isinstance(error, OSError) and not _is_about_encryption(error)


def is_taken(error: BaseException) -> bool:
    """Whether a lock was waited for in vain."""
    return code_of(error) == _IN_USE


def is_of_the_server(error: BaseException) -> bool:
    """Whether the server failed, or could not be reached, and not the statement."""
    code = code_of(error)
    return is_away(error) or code[:2] in _SERVER_CLASSES


def server_error(error: BaseException, place: str, what: str) -> StorageError:
    """What to raise where the server failed while a database was in use."""
    if code_of(error) == _FULL:
        return StorageFull(
            f"{place} cannot be {what}: the server's disk is full ({text_of(error)}). Nothing is "
            "lost: free disk space there, and do it again"
        )
    if is_away(error):
        return StorageError(
            f"{place} cannot be {what} now: the database server is away ({text_of(error)}). "
            "Nothing is lost, and it is tried again: see whether the server runs and is reached"
        )
    return StorageError(
        f"{place} cannot be {what}: {text_of(error)}. See the log of the database server"
    )


def opening_error(error: BaseException, place: str) -> FabstirError:
    """What to raise where a database cannot be opened."""
    text, code = text_of(error), code_of(error)
    if code in _LOGIN:
        return ConfigError(
            f"{place} does not let this user in: {text}. Correct the user in database.url, or the "
            "password in the file that database.password_file names"
        )
    if code == _NO_DATABASE:
        return ConfigError(f"{place}: {text}. Make it with `createdb`, or correct database.url")
    if code == _NOT_ALLOWED:
        return ConfigError(
            f"{place}: {text}. Let its owner run GRANT CREATE ON DATABASE ... TO the user in "
            "database.url, or make it the schema's owner"
        )
    if _is_about_encryption(error):
        return ConfigError(
            f"{place} cannot be reached by an encrypted connection: {text}. Switch ssl on at the "
            "server; or, where nobody can listen on the way, add ?sslmode=disable to database.url"
        )
    if is_of_the_server(error):
        return server_error(error, place, "used as the database")
    return ConfigError(
        f"{place} cannot be used as the database: {text}. Correct database.url, or see the "
        "server's log"
    )


def text_of(error: BaseException) -> str:
    """What the server or the system said, on one line."""
    origin: BaseException = getattr(error, "orig", None) or error
    if isinstance(origin, OSError):
        return os.strerror(origin.errno) if origin.errno else str(origin) or "no answer in time"
    said = str(origin.__cause__ or origin) or type(origin).__name__
    return " ".join(said.split())


def _is_about_encryption(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError) or "rejected SSL upgrade" in str(error)


def patiently(do: Callable[[], T], *, may_end: Callable[[], bool] = lambda: True) -> T:
    """Call `do` until the server is there, or for a while; it may be called many times.

    Args:
        may_end: whether it may be given up after that while; asked again and again.
    """
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return do()
        except FAILURES as exc:
            if not is_away(exc) or (time.monotonic() > give_up_at and may_end()):
                raise
        time.sleep(_PAUSE_SECONDS)


def drop(connection: Connection) -> None:
    """Be rid of a connection, with hardly a wait for a server that may not hear of it."""
    connection.invalidate()
    connection.close()
