"""The journal: one SQLite file (or, by URL, another SQL database), and the only place with SQL."""

from fabstir.db.database import Database, open_database

__all__ = ["Database", "open_database"]
