"""Storing many blobs concurrently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from fabstir.s5.ports import Blobs


@dataclass(frozen=True, slots=True)
class Unstored:
    """The bytes of a blob that is to be stored, and why it will be pinned.

    Attributes:
        may_use_reserve: see `ports.Blobs.put`.
        is_own: whether one entry alone can name it.
    """

    data: bytes
    reason: str
    may_use_reserve: bool = False
    is_own: bool = False


async def put_all(blobs: Blobs, unstored: Sequence[Unstored]) -> None:
    """Store blobs at the same time: the store's commits are shared, a portal's round trips overlap.

    Raises:
        StorageError: the first error, when all have ended; the others are kept.
    """
    errors: list[Exception] = []

    async def put(blob: Unstored) -> None:
        try:
            await blobs.put(blob.data, reason=blob.reason, may_use_reserve=blob.may_use_reserve)
        except Exception as exc:  # noqa: BLE001 - raised below, without its task group
            errors.append(exc)

    async with anyio.create_task_group() as tasks:
        for blob in unstored:
            tasks.start_soon(put, blob)
    if errors:
        raise errors[0]
