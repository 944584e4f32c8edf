"""SQL, and the only place with it: the journal of money, and S5's own tables in `db/s5`."""

from fabstir.db.database import Database, make_data_folder, open_database
from fabstir.db.schema import JOURNAL, Schema

__all__ = ["JOURNAL", "Database", "Schema", "make_data_folder", "open_database"]
