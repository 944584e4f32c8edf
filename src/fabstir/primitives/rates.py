"""A rate with a burst, for whoever has a clock."""

from __future__ import annotations

from collections.abc import Callable


class TokenBucket:
    """A rate with a burst. Never more than `burst` may be taken at once.

    Args:
        monotonic: seconds that only grow.
    """

    __slots__ = ("_at", "_burst", "_monotonic", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, monotonic: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._monotonic = monotonic
        self._tokens = burst
        self._at = monotonic()

    def _refill(self) -> None:
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def try_take(self, amount: float = 1.0) -> bool:
        """Take, if it is there."""
        self._refill()
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def seconds_until(self, amount: float = 1.0) -> float:
        """How long it is not there yet; 0 if it is."""
        self._refill()
        return max(0.0, (amount - self._tokens) / self._rate)

    def take(self, amount: float) -> float:
        """Take on credit; returns the seconds to wait until it is paid back."""
        self._refill()
        self._tokens -= amount
        return self.seconds_until(0.0)
