"""SQL, and the only place with it: the journal of money, and S5's own tables in `db/s5`."""

from fabstir.db.database import (
    Database,
    DatabaseReader,
    make_data_folder,
    open_database,
    open_reader,
)
from fabstir.db.schema import JOURNAL, Schema

__all__ = [
    "JOURNAL",
    "Database",
    "DatabaseReader",
    "Schema",
    "make_data_folder",
    "open_database",
    "open_reader",
]
