"""The first tables, in the order in which they refer to one another."""

from __future__ import annotations

from alembic import op

from fabstir.s5.tables import (
    accounts,
    blobs,
    cache,
    pins,
    publications,
    registry,
    replicas,
    tus,
    uploads,
)

revision = "0001"
down_revision = None

TABLES = (
    blobs.blobs,
    blobs.blob_data,
    blobs.blob_groups,
    blobs.doomed_files,
    pins.owners,
    pins.pins,
    registry.registry_entries,
    registry.registry_forks,
    accounts.accounts,
    accounts.account_tokens,
    tus.tus_uploads,
    uploads.uploads,
    replicas.replicas,
    publications.own_entries,
    publications.publications,
    cache.cache_entries,
)


def upgrade() -> None:
    """Create them."""
    for table in TABLES:
        table.create(op.get_bind())
