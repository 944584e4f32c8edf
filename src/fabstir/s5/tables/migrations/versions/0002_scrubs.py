"""How far a scrub is, and the damaged blobs without looking at all of them."""

from __future__ import annotations

from alembic import op

from fabstir.s5.tables import blobs, scrubs

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create them; 0001 makes a new table with all of its indexes."""
    scrubs.scrubs.create(op.get_bind())
    blobs.DAMAGED.create(op.get_bind(), checkfirst=True)
