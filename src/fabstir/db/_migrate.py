"""The tables of a database that is opened: made if it has none, else brought up to this version.

A new database gets today's tables at once, and Alembic is not even imported: that alone takes a
third of a second, and each migration from the first one on some milliseconds. A test holds what is
made so to what the migrations make. An older database is migrated by Alembic, on the connection
that is there; no ini file, no command line.
"""

from __future__ import annotations

import importlib
from typing import Final

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    insert,
    inspect,
    select,
)

from fabstir.db.schema import Schema
from fabstir.primitives.errors import ConfigError

_versions: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table, as it makes it."""


def migrate(connection: Connection, place: str, schema: Schema, *, may_begin: bool) -> bool:
    """Bring the tables up to the newest revision of this version.

    Args:
        place: where the database is, as errors name it.
        may_begin: whether a database without tables gets them.

    Returns:
        Whether it has them; False: it had none, and may not begin.

    Raises:
        ConfigError: the tables are of a newer version.
    """
    with connection.begin():
        current = _revision(connection)
        if current is None and may_begin:
            _create(connection, schema)
            return True
    if current is None:
        return False
    if current != schema.revision:
        upgrade(connection, place, schema, current)
    return True


def is_current(connection: Connection, schema: Schema) -> bool:
    """Whether the tables are of this version's newest revision; inside a transaction."""
    return _revision(connection) == schema.revision


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_versions.name):
        return None
    return connection.scalar(select(_versions.c.version_num))


def _create(connection: Connection, schema: Schema) -> None:
    """Unchecked, as a migration would: tables of somebody else's are an error, not ours."""
    for name in schema.modules:
        importlib.import_module(name)
    # First, so that it lies in front: a file that is damaged further back can still be opened.
    _versions.create(connection, checkfirst=False)
    schema.metadata.create_all(connection, checkfirst=False)
    connection.execute(insert(_versions).values(version_num=schema.revision))


def upgrade(connection: Connection, place: str, schema: Schema, current: str | None) -> None:
    """Run the migrations after a revision; None: all of them, on a database without tables.

    Raises:
        ConfigError: none of them is of this revision.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(schema.migrations))
    known = {each.revision for each in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise ConfigError(
            f"{place} has the tables of a newer version (revision {current}): "
            "update fabstir, or use another data folder or database"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
