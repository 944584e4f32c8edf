"""What tables a database really has, and the same database made again by all of its migrations."""

from __future__ import annotations

from dataclasses import dataclass

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from fabstir.db import Schema
from fabstir.db._migrate import upgrade

_NOT_OF_THE_SCHEMA = ("table", "holders")
"""PostgreSQL's, for its lock."""


@dataclass(frozen=True, slots=True)
class Made:
    """Attributes:
    tables: every column, constraint and index; in SQLite as it was declared.
    differences: from the tables that the code declares.
    """

    tables: list[str]
    differences: object


def made(connection: Connection, schema: Schema) -> Made:
    """Look at what is there."""

    def is_of_the_schema(name: str | None, kind: str, _parents: object) -> bool:
        return (kind, name) != _NOT_OF_THE_SCHEMA

    options = {"include_name": is_of_the_schema}
    context = MigrationContext.configure(connection, opts=options)
    return Made(_tables(connection), compare_metadata(context, schema.metadata))


def migrated(connection: Connection, schema: Schema) -> Made:
    """Drop all, and run every migration from the first one on."""
    schema.metadata.drop_all(connection)
    connection.exec_driver_sql("DROP TABLE alembic_version")
    upgrade(connection, "the test's database", schema, None)
    return made(connection, schema)


def _tables(connection: Connection) -> list[str]:
    if connection.dialect.name == "sqlite":
        return sorted(map(str, connection.exec_driver_sql("SELECT name, sql FROM sqlite_master")))
    look = inspect(connection)
    kinds = (
        look.get_multi_columns,
        look.get_multi_pk_constraint,
        look.get_multi_foreign_keys,
        look.get_multi_unique_constraints,
        look.get_multi_check_constraints,
        look.get_multi_indexes,
    )
    return sorted(
        f"{table} {kind.__name__} {found}" for kind in kinds for table, found in kind().items()
    )
