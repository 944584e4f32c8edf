"""Alembic, run at open on the connection that is there; no ini file, no command line."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from fabstir.db.schema import Schema
from fabstir.primitives.errors import ConfigError


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
    config = _config(schema)
    scripts = ScriptDirectory.from_config(config)
    with connection.begin():
        current = _revision(connection)
    if current == scripts.get_current_head():
        return True
    if current is None and not may_begin:
        return False
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise ConfigError(
            f"{place} has the tables of a newer version (revision {current}): "
            "update fabstir, or use another data folder or database"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return True


def is_current(connection: Connection, schema: Schema) -> bool:
    """Whether the tables are of this version's newest revision; inside a transaction."""
    scripts = ScriptDirectory.from_config(_config(schema))
    return _revision(connection) == scripts.get_current_head()


def _config(schema: Schema) -> Config:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations))
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
