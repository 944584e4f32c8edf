"""What a host counts; the names are in docs/metrics.md."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from fabstir.engines import EngineState
from fabstir.serving.models import ServedModels
from fabstir.telemetry.metrics import MetricsRegistry

_FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class HostMetrics:
    """Counters of one host process; `model` is the repo:file of one that it serves."""

    tokens_delivered: Counter
    tokens_proven: Counter
    first_token_seconds: Histogram
    engine_ready: Gauge
    live_sessions: Gauge
    sockets: Gauge

    @classmethod
    def of(cls, registry: MetricsRegistry) -> HostMetrics:
        """Register them."""
        return cls(
            registry.counter(
                "tokens_delivered", "Completion tokens streamed to renters", labels=["model"]
            ),
            registry.counter("tokens_proven", "Completion tokens claimed on chain"),
            registry.histogram(
                "first_token_seconds",
                "From a request's arrival to its first token, in seconds",
                buckets=_FIRST_TOKEN_BUCKETS,
                labels=["model"],
            ),
            registry.gauge(
                "engine_ready", "1: the engine of the model can answer now", labels=["model"]
            ),
            registry.gauge("live_sessions", "Sessions with an open socket"),
            registry.gauge("sockets", "Open WebSockets"),
        )

    def watch(self, models: ServedModels) -> None:
        """Show every model from the start on, also one that nobody asks for."""
        for model in models:
            self.tokens_delivered.labels(model.name)
            self.first_token_seconds.labels(model.name)
            self.engine_ready.labels(model.name).set_function(
                lambda model=model: model.state is EngineState.READY
            )
