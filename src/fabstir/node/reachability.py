"""Whether peers get in over libp2p, for health, status and metrics.

The node dials its own listeners as a stranger would (p2p/_selfcheck.py); what that found is read
here, from the other side of the bridge, so that a libp2p thread that hangs is noticed as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
from prometheus_client import Gauge

from fabstir.p2p import InboundStatus, P2PNode
from fabstir.primitives.errors import PeerError
from fabstir.telemetry import CheckResult
from fabstir.telemetry.metrics import MetricsRegistry

READ_TIMEOUT = 1.0
"""Seconds for the libp2p thread to say what it found: nothing there waits for the network."""

READ_INTERVAL = 10.0
"""Seconds between two readings for the metrics."""

_FIX = "restart the host if this lasts"


@dataclass(frozen=True, slots=True)
class P2PMetrics:
    """What is counted of libp2p; the names are in docs/metrics.md."""

    is_open: Gauge
    age: Gauge
    inbound: Gauge
    pending: Gauge
    evicted: Gauge

    @classmethod
    def of(cls, registry: MetricsRegistry) -> P2PMetrics:
        """Register them."""
        return cls(
            registry.gauge("p2p_open", "1: a peer that dials this host gets in"),
            registry.gauge("p2p_check_age_seconds", "Since that was last looked at"),
            registry.gauge("p2p_inbound_connections", "Peers that dialled this host"),
            registry.gauge("p2p_pending_connections", "Of those, in their handshake"),
            registry.gauge(
                "p2p_evicted_connections", "Inbound connections cut for another, since the start"
            ),
        )

    def show(self, found: InboundStatus) -> None:
        """As it was found now."""
        self.is_open.set(int(found.problem is None and not found.is_overdue))
        self.age.set(found.age or 0.0)
        self.inbound.set(found.num_inbound)
        self.pending.set(found.num_pending)
        self.evicted.set(found.num_evicted)


@dataclass(frozen=True, slots=True)
class Reachability:
    """Reads what the libp2p node found when it dialled itself."""

    p2p: P2PNode
    metrics: P2PMetrics

    async def problem(self) -> str | None:
        """Why nobody gets in, with its fix, or None."""
        try:
            found = await self.p2p.inbound(timeout=READ_TIMEOUT)
        except (TimeoutError, PeerError):
            return f"the libp2p thread does not answer: {_FIX}"
        if found.problem is not None:
            return f"{found.problem}, looked at {found.age or 0.0:.0f} s ago: {_FIX}"
        if found.is_overdue:
            return f"whether peers get in was last looked at {found.age:.0f} s ago: {_FIX}"
        return None

    async def check(self) -> CheckResult:
        """For `/v1/health`. Degraded, because HTTP and WebSocket do not depend on it."""
        problem = await self.problem()
        return CheckResult("ok") if problem is None else CheckResult("degraded", problem)

    async def run(self) -> None:
        """Keep the metrics up to date until cancelled."""
        while True:
            try:
                self.metrics.show(await self.p2p.inbound(timeout=READ_TIMEOUT))
            except (TimeoutError, PeerError):
                self.metrics.is_open.set(0)
            await anyio.sleep(READ_INTERVAL)
