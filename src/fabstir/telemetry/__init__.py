"""Logs, metrics, health.

`telemetry.metrics` is imported by its own name: it needs the `node` extra, which a renter's
installation does not have.
"""

from fabstir.telemetry.health import Check, CheckResult, HealthChecks, HealthReport, Status
from fabstir.telemetry.logs import LogLevel, configure_logging

__all__ = [
    "Check",
    "CheckResult",
    "HealthChecks",
    "HealthReport",
    "LogLevel",
    "Status",
    "configure_logging",
]
