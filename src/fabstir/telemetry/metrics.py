"""Prometheus metrics: one registry a process, our prefix, and the /metrics listener.

Each package defines the metrics it counts, from the registry it is given. Base units (seconds,
bytes, wei, tokens); labels only from small closed sets, never an id of a session or a peer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio.to_thread
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from fabstir.primitives.errors import ConfigError

LOOPBACK = "127.0.0.1"
"""The listener has no authentication, so it is never anywhere else."""

_NAMESPACE = "fabstir"


class MetricsRegistry:
    """Makes the metrics of one process; two of the same name are a ValueError."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    @property
    def collector(self) -> CollectorRegistry:
        """What the listener reads, from its own threads."""
        return self._registry

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """`fabstir_<name>_total`."""
        return Counter(name, documentation, labels, namespace=_NAMESPACE, registry=self._registry)

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """`fabstir_<name>`."""
        return Gauge(name, documentation, labels, namespace=_NAMESPACE, registry=self._registry)

    def histogram(
        self,
        name: str,
        documentation: str,
        *,
        buckets: Sequence[float],
        labels: Sequence[str] = (),
    ) -> Histogram:
        """`fabstir_<name>`; the buckets are upper bounds in the metric's own unit."""
        return Histogram(
            name,
            documentation,
            labels,
            namespace=_NAMESPACE,
            registry=self._registry,
            buckets=buckets,
        )


@asynccontextmanager
async def open_metrics_server(registry: MetricsRegistry, port: int) -> AsyncGenerator[int]:
    """Serve /metrics on loopback for the length of the block.

    It has its own thread, so that a busy event loop can still be looked at.

    Args:
        port: 0 for any free one.

    Yields:
        The port.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server, thread = start_http_server(port, LOOPBACK, registry.collector)
    except OSError as exc:
        raise ConfigError(
            f"cannot serve metrics on {LOOPBACK}:{port} ({exc.strerror}): stop the program that "
            "uses the port, or set metrics.port to another (0: any free one)"
        ) from exc
    try:
        yield server.server_port
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.shutdown)
            thread.join()
            server.server_close()
