"""Storing many blobs with one wait."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from fabstir.storage.ports import Blobs


async def put_all(blobs: Blobs, data: Sequence[bytes], reason: str) -> None:
    """Store blobs at the same time: the store's commits are shared, a portal's round trips overlap.

    Raises:
        StorageError: the first error, when all have ended; the others are kept.
    """
    errors: list[Exception] = []

    async def put(blob: bytes) -> None:
        try:
            await blobs.put(blob, reason=reason)
        except Exception as exc:  # noqa: BLE001 - raised below, without its task group
            errors.append(exc)

    async with anyio.create_task_group() as tasks:
        for blob in data:
            tasks.start_soon(put, blob)
    if errors:
        raise errors[0]
