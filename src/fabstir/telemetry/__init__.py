"""Logs, metrics, health.

`telemetry.metrics` is imported by its own name: it needs the `node` extra, which a renter's
installation does not have.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fabstir.telemetry.health import (
        CheckResult,
        HealthCheck,
        HealthChecks,
        HealthReport,
        Status,
    )
    from fabstir.telemetry.logs import LogLevel, configure_logging
else:
    from fabstir.primitives.lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "health": ["CheckResult", "HealthCheck", "HealthChecks", "HealthReport", "Status"],
            "logs": ["LogLevel", "configure_logging"],
        },
    )

__all__ = [
    "CheckResult",
    "HealthCheck",
    "HealthChecks",
    "HealthReport",
    "LogLevel",
    "Status",
    "configure_logging",
]
