"""Called by Alembic with the connection that `_migrate` put into the configuration."""

from __future__ import annotations

from typing import cast

from alembic import context
from sqlalchemy import Connection

from fabstir.s5.tables.schema import s5_metadata

connection = cast(Connection, context.config.attributes["connection"])
context.configure(connection=connection, target_metadata=s5_metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
