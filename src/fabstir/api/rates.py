"""How often somebody may call: a bucket of tokens for each key, of which only so many are kept."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from fabstir.primitives.errors import Busy
from fabstir.primitives.rates import TokenBucket


class Rates:
    """Token buckets; the one that was used longest ago gives way when there are too many."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        *,
        num_keys: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._num_keys = num_keys
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str) -> None:
        """Count one call.

        Raises:
            Busy: too many, with the seconds until the next one is taken.
        """
        bucket = self._bucket(key)
        if not bucket.try_take():
            raise _busy(bucket)

    def require(self, key: str) -> None:
        """Raises Busy where a call would not be taken now; it is not counted."""
        bucket = self._buckets.get(key)
        if bucket is not None and bucket.seconds_until() > 0:
            raise _busy(bucket)

    def charge(self, key: str) -> None:
        """Count a call that was let in by `require`: several at once may leave less than nothing,
        which has to be made up for first.
        """
        self._bucket(key).take(1.0)

    def _bucket(self, key: str) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._per_second, self._burst, self._clock)
        self._buckets.move_to_end(key)
        while len(self._buckets) > self._num_keys:
            self._buckets.popitem(last=False)
        return bucket


def _busy(bucket: TokenBucket) -> Busy:
    return Busy("too many requests from this address", retry_after=bucket.seconds_until())


class Slots:
    """How many things one key may have going on at once."""

    def __init__(self, num_slots: int, what: str) -> None:
        self._num_slots = num_slots
        self._what = what
        self._taken: dict[str, int] = {}

    @contextmanager
    def hold(self, key: str) -> Generator[None]:
        """Be one of them for the length of the block.

        Raises:
            Busy: there are too many.
        """
        taken = self._taken.get(key, 0)
        if taken >= self._num_slots:
            raise Busy(f"{key} has {taken} {self._what} at once", retry_after=1.0)
        self._taken[key] = taken + 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]
