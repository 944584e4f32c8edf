"""Reading the whole store, slowly and again and again, so that rot is found while others still have
what rotted: `Replication` brings sound bytes for what this marks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from fabstir.primitives.errors import StorageError
from fabstir.s5.store import BlobStore, Fault, Scrubbed, ScrubRound

_logger = logging.getLogger(__name__)

REST_SECONDS: Final = 7 * 86_400.0
"""Between two rounds. Debian scrubs its RAIDs and ZFS pools once a month; nothing below us may."""

PAUSE_SECONDS: Final = 60.0
"""After a start, which has more urgent things to read, and after the disk failed."""

SCRUB_RATE: Final = 32e6
"""Bytes a second: a terabyte in nine hours, half of what `fabstir s5 scrub` takes."""


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """For people and graphs.

    Attributes:
        fraction: of the round that is on its way; 1 between two of them.
        finished_at: when the last one ended, in Unix seconds; None: none did.
    """

    fraction: float
    finished_at: float | None


async def scrub_progress(store: BlobStore) -> ScrubProgress:
    """How far this node's round is."""
    current, stored = await store.scrubbed(), (await store.usage()).num_bytes
    fraction = min(1.0, current.num_bytes / stored) if stored else 1.0
    if not current.cursor:
        fraction = 0.0 if current.finished_at is None else 1.0
    return ScrubProgress(fraction, current.finished_at)


async def keep_scrubbed(
    store: BlobStore,
    *,
    rest: float = REST_SECONDS,
    pause: float = PAUSE_SECONDS,
    max_bytes_per_second: float = SCRUB_RATE,
    clock: Callable[[], float] = time.time,
) -> None:
    """Round after round, each going on behind restarts, until cancelled."""
    while True:
        await anyio.sleep(pause)
        try:
            await anyio.sleep(_due_in(await store.scrubbed(), rest, clock()))
            async for report in store.scrub_round(max_bytes_per_second=max_bytes_per_second):
                _tell(report)
        except StorageError as error:
            _logger.warning("the scrub was interrupted", extra={"reason": str(error)})
        else:
            _logger.info("the whole store was scrubbed")


def _due_in(current: ScrubRound, rest: float, now: float) -> float:
    if current.cursor or current.finished_at is None:
        return 0.0
    # A clock that was set back must not make anybody wait for longer.
    return min(rest, max(0.0, current.finished_at + rest - now))


def _tell(report: Scrubbed) -> None:
    """What the store has not logged itself."""
    orphans = [finding.place for finding in report.findings if finding.fault is Fault.ORPHAN]
    if orphans:
        _logger.warning(
            "files that no blob names take room",
            extra={"num_files": len(orphans), "first": orphans[0]},
        )
