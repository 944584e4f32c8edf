"""The health of a portal, and how long to back off from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fabstir.s5.portals.http import CallOutcome

_WEIGHT = 0.2
"""Of the newest request in the averages: the last ten make up nine tenths of them."""

_FIRST_SECONDS = 0.5
"""What is assumed of a portal that was never asked."""

_RATIO_STEP = 0.1
"""Portals whose success ratios differ by less are ordered by latency, in steps of a factor of
two; within one step the order is that of the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """When a portal that failed is asked again.

    Attributes:
        first, most: seconds; they double with each failure in a row.
        after_lie: seconds; what was wrong once is wrong for a while.
        max_failures: in a row, from which on it is left alone.
    """

    first: float = 1.0
    most: float = 300.0
    after_lie: float = 300.0
    max_failures: int = 2

    def delay(self, failures: int, random: Callable[[], float]) -> float:
        """Seconds, between half and all of the exponential step, so that clients spread out."""
        step = min(self.most, self.first * 2 ** min(failures, 30))
        return step * (0.5 + random() / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalHealth:
    """One portal's health, for people.

    Attributes:
        success_ratio: of late, 0 to 1.
        seconds: a request takes, of late.
        closed_for: seconds until it is asked again; 0: it is asked.
        last_error: "" if the last request was answered.
    """

    url: str
    success_ratio: float
    seconds: float
    closed_for: float
    last_error: str


class Health:
    """A circuit breaker with averages.

    After `max_failures` failures in a row, or one lie, nobody asks for a while; then one request
    is let through, whose outcome decides.
    """

    def __init__(
        self, backoff: Backoff, clock: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self._backoff = backoff
        self._clock = clock
        self._random = random
        self._ratio = 1.0
        self._seconds = _FIRST_SECONDS
        self._failures = 0
        self._open_until = 0.0
        self._is_trying = False
        self._last_error = ""

    def may_ask(self) -> bool:
        """Whether a request may go out now. Where one is tried after a pause, only the first."""
        if self._clock() < self._open_until or self._is_trying:
            return False
        self._is_trying = self._failures >= self._backoff.max_failures
        return True

    @property
    def closed_for(self) -> float:
        """Seconds until it may be asked again."""
        return max(0.0, self._open_until - self._clock())

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Sorts the best first."""
        steps = round((1.0 - self._ratio) / _RATIO_STEP)
        return self.closed_for > 0, steps, math.frexp(self._seconds)[1]

    def note(
        self, outcome: CallOutcome, seconds: float, *, error: str = "", retry_after: float = 0.0
    ) -> None:
        """How a request ended."""
        self._is_trying = False
        self._ratio += _WEIGHT * ((outcome == "ok") - self._ratio)
        self._last_error = error
        if outcome in {"ok", "refused"}:
            self._seconds += _WEIGHT * (seconds - self._seconds)
            self._failures = 0
            self._open_until = 0.0
            return
        self._failures += 1
        pause = retry_after
        if outcome == "lied":
            self._failures = max(self._failures, self._backoff.max_failures)
            pause = self._backoff.after_lie * (0.5 + self._random() / 2)
        elif self._failures >= self._backoff.max_failures:
            rounds = self._failures - self._backoff.max_failures
            pause = max(pause, self._backoff.delay(rounds, self._random))
        self._open_until = self._clock() + pause

    def abandon(self) -> None:
        """The request was cancelled and says nothing."""
        self._is_trying = False

    def report(self, url: str) -> PortalHealth:
        """As of now."""
        return PortalHealth(
            url=url,
            success_ratio=self._ratio,
            seconds=self._seconds,
            closed_for=self.closed_for,
            last_error=self._last_error,
        )
