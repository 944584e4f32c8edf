"""What an S5 node counts; the names are in docs/metrics.md."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fabstir.s5.portals import PortalRequest
from fabstir.s5.portals.pool import BYTES_PER_TB
from fabstir.telemetry.metrics import MetricsRegistry

_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)

_DOORS = {"/s5/fs": "files", "/s5/p2p": "peers"}
"""By how a path begins; every other one is the portal's."""


@dataclass(frozen=True, slots=True)
class S5Metrics:
    """Counters of one node."""

    requests: Counter
    request_seconds: Histogram
    received_bytes: Counter
    sent_bytes: Counter
    portal_requests: Counter
    portal_success_ratio: Gauge
    portal_stored_bytes: Gauge
    portal_cost: Gauge
    blobs: Gauge
    stored_bytes: Gauge
    pins: Gauge
    pinned_bytes: Gauge
    damaged_blobs: Gauge
    scrub_progress: Gauge
    scrub_finished: Gauge
    queue_length: Gauge
    queued_bytes: Gauge
    replicas_missing: Gauge
    replicas_lost: Counter
    peers: Gauge

    @classmethod
    def of(cls, registry: MetricsRegistry) -> S5Metrics:
        """Register them."""
        return cls(
            registry.counter("s5_requests", "Requests answered", ("door", "outcome")),
            registry.histogram(
                "s5_request_seconds",
                "From a request's arrival to the end of its answer",
                buckets=_REQUEST_BUCKETS,
                labels=("door",),
            ),
            registry.counter("s5_received_bytes", "Bodies received", ("who",)),
            registry.counter("s5_sent_bytes", "Bodies sent", ("who",)),
            registry.counter("s5_portal_requests", "Requests to portals", ("portal", "outcome")),
            registry.gauge(
                "s5_portal_success_ratio",
                "Of all requests to a portal, since the start",
                ("portal",),
            ),
            registry.gauge("s5_portal_stored_bytes", "Copies that a portal keeps", ("portal",)),
            registry.gauge(
                "s5_portal_cost_usd_per_month",
                "What these copies cost, by the settings",
                ("portal",),
            ),
            registry.gauge("s5_blobs", "Blobs in the store"),
            registry.gauge("s5_stored_bytes", "Bytes of the blobs in the store"),
            registry.gauge("s5_pins", "Pins, all owners together"),
            registry.gauge("s5_pinned_bytes", "Bytes pinned, once for each owner"),
            registry.gauge("s5_damaged_blobs", "Blobs that are not served: their bytes are wrong"),
            registry.gauge("s5_scrub_progress_ratio", "Of the round of scrubbing, 1 between two"),
            registry.gauge(
                "s5_scrub_finished_timestamp_seconds", "When the last round of scrubbing ended"
            ),
            registry.gauge("s5_queue_length", "Uploads that wait"),
            registry.gauge("s5_queued_bytes", "Bytes of the uploads that wait"),
            registry.gauge("s5_replicas_missing", "Copies that pinned blobs lack elsewhere"),
            registry.counter("s5_replicas_lost", "Copies that were there and are no more"),
            registry.gauge("s5_peers", "Connections to peers"),
        )

    def watch_portal(self, request: PortalRequest) -> None:
        """Count one request to a portal."""
        portal = request.portal
        self.portal_requests.labels(portal, request.outcome).inc()
        self.received_bytes.labels("portal").inc(request.bytes_in)
        self.sent_bytes.labels("portal").inc(request.bytes_out)

    def show_portals(
        self,
        ratios: Mapping[str, float],
        stored_bytes: Mapping[str, int],
        usd_per_tb_month: Mapping[str, Decimal],
    ) -> None:
        """Bring the gauges of portals up to date.

        Args:
            ratios, stored_bytes, usd_per_tb_month: by the portal's URL.
        """
        for portal, ratio in ratios.items():
            self.portal_success_ratio.labels(portal).set(ratio)
        for portal, num_bytes in stored_bytes.items():
            self.portal_stored_bytes.labels(portal).set(num_bytes)
            if portal in usd_per_tb_month:
                cost = usd_per_tb_month[portal] * num_bytes / BYTES_PER_TB
                self.portal_cost.labels(portal).set(float(cost))


class MeasuredApp:
    """An ASGI application whose requests and bytes are counted."""

    def __init__(self, app: ASGIApp, metrics: S5Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket from open to close."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        door = _door(scope["path"])
        counted = _Counted(self._metrics, "peer" if door == "peers" else "client", receive, send)
        start = time.monotonic()
        try:
            await self._app(scope, counted.receive, counted.send)
        finally:
            self._metrics.requests.labels(door, counted.outcome).inc()
            if scope["type"] == "http":
                self._metrics.request_seconds.labels(door).observe(time.monotonic() - start)


class _Counted:
    """What passes in one request."""

    def __init__(self, metrics: S5Metrics, who: str, receive: Receive, send: Send) -> None:
        self.outcome = "broken"
        self._status = 0
        self._received = metrics.received_bytes.labels(who)
        self._sent = metrics.sent_bytes.labels(who)
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        self._received.inc(_num_bytes(message))
        return message

    async def send(self, message: Message) -> None:
        await self._send(message)
        self._sent.inc(_num_bytes(message))
        match message["type"]:
            case "http.response.start":
                self._status = message["status"]
            case "http.response.body" if not message.get("more_body", False):
                self.outcome = _outcome(self._status)
            case "websocket.accept":
                self.outcome = "ok"
            case _:
                pass


def _door(path: str) -> str:
    return next((door for start, door in _DOORS.items() if path.startswith(start)), "portal")


def _outcome(status: int) -> str:
    return "ok" if status < 400 else "refused" if status < 500 else "failed"


def _num_bytes(message: Message) -> int:
    data: bytes | str | None = message.get("body") or message.get("bytes") or message.get("text")
    return len(data) if data else 0
