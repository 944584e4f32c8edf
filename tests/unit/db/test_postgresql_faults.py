"""What a server's error codes mean for whoever writes."""

from __future__ import annotations

import ssl

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from fabstir.db._postgresql_faults import is_away, is_of_the_server, opening_error, server_error
from fabstir.primitives.errors import ConfigError, StorageError, StorageFull

PLACE = "postgresql://me@h/x (schema fabstir)"


def as_raised(error: Exception) -> DBAPIError:
    """As SQLAlchemy hands an error of the driver on."""
    return DBAPIError("INSERT", None, error)


@pytest.mark.parametrize(
    ("error", "is_lost", "is_fault"),
    [
        (asyncpg.AdminShutdownError("terminating connection"), True, True),
        (asyncpg.CannotConnectNowError("starting up"), True, True),
        (asyncpg.ConnectionDoesNotExistError("closed"), True, True),
        (asyncpg.TooManyConnectionsError("no slot"), True, True),
        (asyncpg.DiskFullError("no space left"), False, True),
        (asyncpg.DeadlockDetectedError("deadlock"), False, True),
        (asyncpg.UniqueViolationError("duplicate key"), False, False),
        (asyncpg.ReadOnlySQLTransactionError("read-only"), False, False),
        (ConnectionRefusedError(111, "refused"), True, True),
        (TimeoutError(), True, True),
        (ssl.SSLCertVerificationError("not trusted"), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_lost_server_is_told_from_a_wrong_statement(
    error: Exception, is_lost: bool, is_fault: bool
) -> None:
    for each in (error, as_raised(error)) if isinstance(error, asyncpg.PostgresError) else (error,):
        assert (is_away(each), is_of_the_server(each)) == (is_lost, is_fault)


def test_a_full_disk_of_the_server_is_named() -> None:
    error = server_error(as_raised(asyncpg.DiskFullError("No space left")), PLACE, "written")

    assert isinstance(error, StorageFull)
    assert str(error).startswith(f"{PLACE} cannot be written: the server's disk is full (No space")


def test_a_server_that_is_away_is_no_mistake_of_the_settings() -> None:
    away = opening_error(TimeoutError(), PLACE)
    untrusted = opening_error(ssl.SSLCertVerificationError("not trusted"), PLACE)

    assert type(away) is StorageError
    assert "is away (no answer in time)" in str(away)
    assert type(untrusted) is ConfigError
