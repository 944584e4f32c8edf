"""Health of an S5 node: checks with reasons an operator can act on, and its gauges."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress

import anyio
from anyio import to_thread

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import StorageError
from fabstir.s5.run.metrics import S5Metrics
from fabstir.s5.run.parts import S5, usd_per_tb_month
from fabstir.s5.run.scrub import scrub_progress
from fabstir.s5.tables.replicas import ReplicaState
from fabstir.s5.tables.usage import count_pins
from fabstir.telemetry import CheckResult, HealthChecks
from fabstir.telemetry.health import KEEP_SECONDS
from fabstir.telemetry.supervision import Supervision

_logger = logging.getLogger(__name__)

LOW_DISK_BYTES = 1 << 30
"""Less room than this and somebody should look."""

LATE_ATTEMPTS = 5
"""Uploads that failed more often are worth a word: their portal has been away for a minute."""

_OK = CheckResult("ok")

GAUGE_SECONDS = 15.0
"""Between two looks at what the gauges show; Prometheus usually asks as often."""

GAUGE_REST = 50
"""Times as long as counting took is not counted again: a million copies take seconds."""


class S5Health:
    """The checks of one node."""

    def __init__(self, s5: S5, supervision: Supervision) -> None:
        self._s5 = s5
        self._checks = HealthChecks(
            {
                "store": self._store,
                "blobs": self._blobs,
                "disk": self._disk,
                "portals": self._portals,
                "uploads": self._uploads,
                "peers": self._peers,
                "tasks": supervision.check,
            },
            keep=KEEP_SECONDS,
        )

    async def report(self) -> Json:
        """What GET /s5/health answers."""
        report = await self._checks.report()
        words = {"ok": "healthy", "degraded": "degraded", "failing": "unhealthy"}
        answer: dict[str, Json] = {
            "status": words[report.status],
            "issues": _issues(report.checks),
        }
        with suppress(StorageError):  # `store` says so
            progress = await scrub_progress(self._s5.store)
            answer["scrub"] = {
                "progress": round(progress.fraction, 4),
                "finished_at": progress.finished_at,
            }
        return answer

    async def check(self) -> CheckResult:
        """All of it as one check of a host's."""
        report = await self._checks.report()
        reasons = [str(issue) for issue in _issues(report.checks)]
        # A host whose copies or peers are late still sells tokens.
        is_failing = report.checks["store"].status == "failing"
        status = "failing" if is_failing else "ok" if not reasons else "degraded"
        return CheckResult(status, "; ".join(reasons), is_private=True)

    async def _store(self) -> CheckResult:
        await self._s5.store.usage()
        return _OK

    async def _blobs(self) -> CheckResult:
        num_damaged = await self._s5.store.num_damaged()
        if not num_damaged:
            return _OK
        return CheckResult(
            "degraded",
            f"{num_damaged} blobs are damaged and never served: name peers or portals that have "
            "them (s5.peers, s5.portals), or store them anew",
        )

    async def _disk(self) -> CheckResult:
        free = (await to_thread.run_sync(shutil.disk_usage, self._s5.folder)).free
        if free >= LOW_DISK_BYTES:
            return _OK
        return CheckResult(
            "degraded", f"{free >> 20} MiB are free for s5.folder: make room, or unpin"
        )

    async def _portals(self) -> CheckResult:
        away = [
            f"{report.url} ({report.last_error or 'it failed'})"
            for report in self._s5.pool.health()
            if report.closed_for > 0
        ]
        return CheckResult("degraded", f"left alone: {', '.join(away)}") if away else _OK

    async def _uploads(self) -> CheckResult:
        late = [item for item in await self._s5.uploads.pending() if item.attempts >= LATE_ATTEMPTS]
        if not late:
            return _OK
        return CheckResult(
            "degraded",
            f"{len(late)} uploads wait, the first for {late[0].portal}: {late[0].last_error}",
        )

    async def _peers(self) -> CheckResult:
        status = self._s5.peers.status()
        away = [peer.url for peer in status if peer.node_id is None]
        if not away or len(away) < len(status):
            return _OK
        return CheckResult("degraded", f"no peer is connected; away: {', '.join(away)}")


def _issues(checks: Mapping[str, CheckResult]) -> list[Json]:
    return [f"{name}: {result.reason}" for name, result in checks.items() if result.status != "ok"]


async def keep_gauges(s5: S5, metrics: S5Metrics) -> None:
    """Bring the gauges up to date, until cancelled."""
    while True:
        began = anyio.current_time()
        try:
            await _update(s5, metrics)
        except StorageError as error:
            _logger.warning("the gauges are not up to date", extra={"reason": str(error)})
        took = anyio.current_time() - began
        await anyio.sleep(max(GAUGE_SECONDS, GAUGE_REST * took))


async def _update(s5: S5, metrics: S5Metrics) -> None:
    usage = await s5.store.usage()
    metrics.blobs.set(usage.num_blobs)
    metrics.stored_bytes.set(usage.num_bytes)
    metrics.damaged_blobs.set(await s5.store.num_damaged())
    progress = await scrub_progress(s5.store)
    metrics.scrub_progress.set(progress.fraction)
    metrics.scrub_finished.set(progress.finished_at or 0)
    num_pins, pinned_bytes = await s5.store.db.read(count_pins)
    metrics.pins.set(num_pins)
    metrics.pinned_bytes.set(pinned_bytes)
    backlog = await s5.uploads.backlog()
    metrics.queue_length.set(sum(num_blobs for num_blobs, _ in backlog.values()))
    metrics.queued_bytes.set(sum(num_bytes for _, num_bytes in backlog.values()))
    metrics.replicas_missing.set(await s5.replication.num_missing())
    metrics.peers.set(sum(peer.node_id is not None for peer in s5.peers.status()))
    stored = {
        place.place: place.num_bytes
        for place in await s5.replication.places()
        if place.state is ReplicaState.STORED
    }
    ratios = {report.url: report.success_ratio for report in s5.pool.health()}
    metrics.show_portals(ratios, stored, usd_per_tb_month(s5.settings))
