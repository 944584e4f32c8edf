"""Rows of the simplest table, for tests of the database itself."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, func, insert, select

from fabstir.db.chains import chains


def add(number: int) -> Callable[[Connection], None]:
    """A write of one row."""

    def write(connection: Connection) -> None:
        connection.execute(insert(chains).values(chain_id=number, genesis_hash=f"0x{number:064x}"))

    return write


def count(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(chains)) or 0


def numbers(connection: Connection) -> set[int]:
    return set(connection.scalars(select(chains.c.chain_id)))
