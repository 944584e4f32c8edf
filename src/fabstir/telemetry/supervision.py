"""Tasks that go on after the machine, the disk or the chain failed them, and say so meanwhile.

One file too many open, or a node that is down at the wrong moment, is no reason for a process to
end that holds other people's deposits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from fabstir.primitives.errors import FabstirError
from fabstir.primitives.groups import leaves
from fabstir.telemetry.health import CheckResult

_logger = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.5
MAX_DELAY: Final = 30.0
"""Seconds before a task that failed is started again; twice as long each time."""

STEADY_SECONDS: Final = 60.0
"""A task that ran this long has recovered."""


class Supervision:
    """The supervised tasks of one process."""

    def __init__(
        self,
        *,
        first_delay: float = FIRST_DELAY,
        max_delay: float = MAX_DELAY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_delay = first_delay
        self._max_delay = max_delay
        self._clock = clock
        self._failed: dict[str, tuple[float, str]] = {}

    async def keep(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        """Run `task` until it returns; start it again whenever an OSError or an error of ours ends
        it. Anything else is a bug, and comes out.
        """
        delay = self._first_delay
        while (failure := await _failure_of(task)) is not None:
            at, _ = self._failed.get(name, (-STEADY_SECONDS, ""))
            now = self._clock()
            delay = self._first_delay if now - at > STEADY_SECONDS else delay
            self._failed[name] = (now, str(failure) or type(failure).__name__)
            _logger.warning(
                "a task failed and is started again",
                extra={"task": name, "reason": str(failure), "seconds": delay},
            )
            await anyio.sleep(delay)
            delay = min(self._max_delay, 2 * delay)

    def complaints(self) -> tuple[str, ...]:
        """What failed within the last minute, for status and health."""
        now = self._clock()
        return tuple(
            f"its {name} failed and was started again: {reason}"
            for name, (at, reason) in self._failed.items()
            if now - at <= STEADY_SECONDS
        )

    async def check(self) -> CheckResult:
        """As a check of the process's health."""
        complaints = self.complaints()
        status = "degraded" if complaints else "ok"
        return CheckResult(status, "; ".join(complaints), is_private=True)


async def _failure_of(task: Callable[[], Awaitable[None]]) -> BaseException | None:
    failures: list[BaseException] = []
    try:
        await task()
    except* (OSError, FabstirError) as group:
        failures = leaves(group)
    return failures[0] if failures else None
