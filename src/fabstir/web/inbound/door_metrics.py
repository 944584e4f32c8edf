"""What a process counts of its doors' connections; the names are in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prometheus_client import Counter, Gauge

from fabstir.telemetry.metrics import MetricsRegistry
from fabstir.web.inbound.connections import Connections, DoorLimits


@dataclass(frozen=True, slots=True)
class DoorMetrics:
    """By the label `door`: "api" or "s5"."""

    open: Gauge
    refused: Counter
    dropped: Counter

    @classmethod
    def of(cls, registry: MetricsRegistry) -> DoorMetrics:
        """Register them, once a process."""
        return cls(
            registry.gauge("connections", "Open connections, HTTP and WebSocket", ["door"]),
            registry.counter(
                "refused", "Connections, calls and frames that were refused", ["door", "why"]
            ),
            registry.counter(
                "connections_dropped", "Connections that gave way to others", ["door", "why"]
            ),
        )

    def connections(self, door: str, limits: DoorLimits) -> Connections:
        """The connections of a door, counted."""
        dropped = self.dropped
        connections = Connections(
            limits,
            on_refused=self.on_refused(door),
            on_dropped=lambda why: dropped.labels(door, why).inc(),
        )
        self.open.labels(door).set_function(partial(len, connections))
        return connections

    def on_refused(self, door: str) -> Callable[[str], None]:
        """Counts a refusal, by its reason: a word of a small closed set."""
        refused = self.refused

        def count(why: str) -> None:
            refused.labels(door, why).inc()

        return count
