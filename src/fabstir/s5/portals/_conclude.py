"""Combining the errors of several portals into one."""

from __future__ import annotations

from collections.abc import Sequence

from fabstir.primitives.errors import PortalError, PortalUnavailable, StorageError


def conclude(what: str, failures: Sequence[StorageError]) -> PortalError:
    """What to raise when all failed; where there was only one portal, its own error."""
    problems = [failure for failure in failures if isinstance(failure, PortalError)]
    if len(failures) == 1 and problems:
        return problems[0]
    if not failures:
        return PortalUnavailable("portals", f"{what}: no portal is configured (s5.portals)")
    waits = [f.retry_after for f in problems if isinstance(f, PortalUnavailable)]
    reasons = "; ".join(str(failure) for failure in failures)
    return PortalUnavailable("portals", f"{what}: {reasons}", retry_after=min(waits, default=0.0))
