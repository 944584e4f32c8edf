"""The first tables, in the order in which they refer to one another."""

from __future__ import annotations

from alembic import op

from fabstir.db import chains, claims, cursors, host_sessions, outbox, receipts, renter

revision = "0001"
down_revision = None

TABLES = (
    chains.chains,
    outbox.transactions,
    outbox.signed_versions,
    cursors.cursors,
    cursors.cursor_blocks,
    host_sessions.host_sessions,
    host_sessions.session_inits,
    receipts.receipts,
    claims.claims,
    renter.renter_sessions,
    renter.renter_receipts,
)


def upgrade() -> None:
    """Create them."""
    for table in TABLES:
        table.create(op.get_bind())
