"""The indexes of checkpoints as files of S5, behind the claims that they list.

A claim needs its delta and its proof to be published, and nothing else: the index can be made again
from the journal at any time. So it is written afterwards and by itself; what fails is tried again,
and what a kill or a failure left behind is found and repaired when the host starts.
"""

from __future__ import annotations

import logging
from typing import Final

from fabstir.primitives.errors import CorruptBlob, NotFound, StorageError
from fabstir.primitives.ids import JobId
from fabstir.protocol.checkpoint import index_path
from fabstir.protocol.limits import MAX_FRAME_BYTES
from fabstir.rails.session_job.checkpoints import Checkpoints
from fabstir.s5.fs import FileSystem
from fabstir.telemetry.waiting import Wakeup

_logger = logging.getLogger(__name__)

FIRST_DELAY: Final = 1.0
MAX_DELAY: Final = 300.0
"""Seconds before what failed is tried again, doubling: a portal may be away for long."""


class CheckpointFiles:
    """Keeps `home/checkpoints/{host}/{session}/index.json` as the journal has it."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        files: FileSystem,
        *,
        first_delay: float = FIRST_DELAY,
        max_delay: float = MAX_DELAY,
    ) -> None:
        self._checkpoints = checkpoints
        self.files = files
        self._first_delay = first_delay
        self._max_delay = max_delay
        self._stale: dict[JobId, None] = {}
        self._wakeup = Wakeup()

    def changed(self, job_id: JobId) -> None:
        """A claim of this session was mined. Waits for nothing, and never fails."""
        self._stale[job_id] = None
        self._wakeup.wake()

    async def run(self) -> None:
        """Write what is stale, for as long as the host serves; first look at every session."""
        for row in await self._checkpoints.ledger.sessions(unsettled_only=False):
            self.changed(row.job_id)
        delay = self._first_delay
        while True:
            await self._wakeup.sleep()
            if await self.write_stale():
                delay = self._first_delay
            else:
                await self._wakeup.sleep(delay)
                self._wakeup.wake()
                delay = min(self._max_delay, 2 * delay)

    async def write_stale(self) -> bool:
        """Write each stale index once; returns whether none is left that failed."""
        has_failed = False
        for job_id in list(self._stale):
            # Before it is read: what changes meanwhile is stale again.
            self._stale.pop(job_id, None)
            try:
                await self._write(job_id)
            except StorageError as exc:
                has_failed = True
                self._stale[job_id] = None
                extra = {"job_id": job_id, "reason": str(exc)}
                _logger.warning("the checkpoint index is not written yet", extra=extra)
        return not has_failed

    async def _write(self, job_id: JobId) -> None:
        index = await self._checkpoints.index(job_id)
        if index is None:
            return
        path = index_path(self._checkpoints.host, job_id)
        try:
            is_there = await self.files.get(path, MAX_FRAME_BYTES) == index
        except (NotFound, CorruptBlob):
            is_there = False
        if not is_there:
            # In clear: it is what everybody gets at /v1/checkpoints, and signed.
            await self.files.put(path, index, "application/json", encrypt=False)
