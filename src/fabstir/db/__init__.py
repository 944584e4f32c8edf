"""SQL, and the only place with it: the journal of money, and S5's own tables in `s5/tables`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fabstir.db.database import Database, DatabaseReader, open_database, open_reader
    from fabstir.db.journal import make_data_folder, open_journal, open_journal_reader
    from fabstir.db.schema import JOURNAL, Schema
else:
    from fabstir.primitives.lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "database": ["Database", "DatabaseReader", "open_database", "open_reader"],
            "journal": ["make_data_folder", "open_journal", "open_journal_reader"],
            "schema": ["JOURNAL", "Schema"],
        },
    )

__all__ = [
    "JOURNAL",
    "Database",
    "DatabaseReader",
    "Schema",
    "make_data_folder",
    "open_database",
    "open_journal",
    "open_journal_reader",
    "open_reader",
]
