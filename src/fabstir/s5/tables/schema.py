"""What the SQLite of an S5 store holds. Every table module of this folder declares in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import MetaData

from fabstir.db.schema import NAMING, Schema

s5_metadata = MetaData(naming_convention=NAMING)

MAX_PLACE_CHARS: Final = 2048
"""Longest URL of a portal, where copies go and are."""

S5: Final = Schema(
    what="the S5 store's database",
    metadata=s5_metadata,
    modules=(
        *("fabstir.s5.tables.accounts", "fabstir.s5.tables.blobs", "fabstir.s5.tables.cache"),
        *("fabstir.s5.tables.pins", "fabstir.s5.tables.publications"),
        *("fabstir.s5.tables.registry", "fabstir.s5.tables.replicas", "fabstir.s5.tables.scrubs"),
        *("fabstir.s5.tables.tus", "fabstir.s5.tables.uploads"),
    ),
    migrations=Path(__file__).parent / "migrations",
    revision="0002",
)
