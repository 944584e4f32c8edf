"""Health: named checks, asked together, each with a reason a person can act on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import anyio

from fabstir.primitives.errors import FabstirError

logger = logging.getLogger(__name__)

Status = Literal["ok", "degraded", "failing"]
"""degraded: it works, somebody should look. failing: this part does not do its work."""

_WORST_LAST: tuple[Status, ...] = ("ok", "degraded", "failing")

KEEP_SECONDS = 1.0
"""For which a report to strangers is given again."""

CHECK_TIMEOUT = 2.0
"""Seconds for one check. Load balancers give up after about five."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found.

    Attributes:
        reason: "" only if all is well.
        is_private: the reason may name places of this machine and its network: strangers are not
            told it.
    """

    status: Status
    reason: str = ""
    is_private: bool = False


HealthCheck = Callable[[], Awaitable[CheckResult]]


@dataclass(frozen=True, slots=True)
class HealthReport:
    """All checks, and the worst of them."""

    status: Status
    checks: Mapping[str, CheckResult]


class HealthChecks:
    """The named checks of one process."""

    def __init__(
        self,
        checks: Mapping[str, HealthCheck],
        *,
        timeout: float = CHECK_TIMEOUT,
        keep: float = 0.0,
    ) -> None:
        """
        Args:
            timeout: seconds for one check.
            keep: seconds for which a report is given again: strangers ask as often as they like,
                and checks ask the chain and the disk.
        """
        self._checks = checks
        self._timeout = timeout
        self._keep = keep
        self._last: tuple[float, HealthReport] | None = None
        self._asking = anyio.Lock()

    async def report(self) -> HealthReport:
        """Ask every check at the same time; never takes longer than the timeout, or, behind
        somebody else's question, twice that.
        """
        async with self._asking:
            now = anyio.current_time()
            if self._last is None or now - self._last[0] >= self._keep:
                self._last = (now, await self._ask_all())
            return self._last[1]

    async def _ask_all(self) -> HealthReport:
        results: dict[str, CheckResult] = {}
        async with anyio.create_task_group() as tasks:
            for name in self._checks:
                tasks.start_soon(self._ask, name, results)
        ordered = {name: results[name] for name in self._checks}
        statuses: list[Status] = ["ok", *(result.status for result in ordered.values())]
        return HealthReport(max(statuses, key=_WORST_LAST.index), ordered)

    async def _ask(self, name: str, results: dict[str, CheckResult]) -> None:
        try:
            with anyio.fail_after(self._timeout):
                results[name] = await self._checks[name]()
        except TimeoutError:
            results[name] = CheckResult("failing", f"no answer within {self._timeout:g} s")
        except FabstirError as exc:
            logger.info("health check failed", extra={"check": name, "reason": str(exc)})
            results[name] = CheckResult("failing", str(exc), is_private=True)
