"""Alembic, run at open on the connection that is there; no ini file, no command line."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from fabstir.db.schema import Schema
from fabstir.primitives.errors import ConfigError


def migrate(connection: Connection, path: Path, schema: Schema, *, may_begin: bool) -> bool:
    """Bring the tables up to the newest revision of this version.

    Args:
        may_begin: whether a database without tables gets them.

    Returns:
        Whether it has them; False: it had none, and may not begin.

    Raises:
        ConfigError: the file was written by a newer version.
    """
    config = _config(schema)
    scripts = ScriptDirectory.from_config(config)
    current = _revision(connection)
    if current == scripts.get_current_head():
        return True
    if current is None and not may_begin:
        return False
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise ConfigError(
            f"{path} has the tables of a newer version (revision {current}): "
            "update fabstir, or use another data folder"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return True


def is_current(connection: Connection, schema: Schema) -> bool:
    """Whether the tables are of this version's newest revision."""
    scripts = ScriptDirectory.from_config(_config(schema))
    return _revision(connection) == scripts.get_current_head()


def _config(schema: Schema) -> Config:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations))
    return config


def _revision(connection: Connection) -> str | None:
    with connection.begin():
        return MigrationContext.configure(connection).get_current_revision()
