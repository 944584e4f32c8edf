"""How often somebody may call, and how much at once, by a key: an address, or an account."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio

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
        what: str = "requests from this address",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            what: is counted, and whose, for the error's text.
        """
        self._what = what
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
            raise self._busy(bucket)

    def require(self, key: str) -> None:
        """Raises Busy where a call would not be taken now; it is not counted."""
        bucket = self._buckets.get(key)
        if bucket is not None and bucket.seconds_until() > 0:
            raise self._busy(bucket)

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

    def _busy(self, bucket: TokenBucket) -> Busy:
        return Busy(f"too many {self._what}", retry_after=bucket.seconds_until())


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


class Queue:
    """As `Slots`, but who finds none waits for a while: clients start all that they have at once,
    and some give up at the first refusal.

    Args:
        max_waiting: of one key; further ones are refused at once.
        seconds: how long one waits at most.
    """

    def __init__(self, num_slots: int, what: str, *, max_waiting: int, seconds: float) -> None:
        self._num_slots = num_slots
        self._what = what
        self._max_waiting = max_waiting
        self._seconds = seconds
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[anyio.Event]] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncGenerator[None]:
        """Be one of them for the length of the block, in the order of arrival.

        Raises:
            Busy: there are too many, and none ended in time.
        """
        await self._enter(key)
        try:
            yield
        finally:
            self._leave(key)

    async def _enter(self, key: str) -> None:
        waiting = self._waiting.get(key, ())
        if self._taken.get(key, 0) < self._num_slots and not waiting:
            self._taken[key] = self._taken.get(key, 0) + 1
            return
        if len(waiting) >= self._max_waiting:
            raise self._busy(key)
        turn = anyio.Event()
        self._waiting.setdefault(key, deque()).append(turn)
        has_it = False
        try:
            with anyio.fail_after(self._seconds):
                await turn.wait()
            has_it = True
        except TimeoutError:
            raise self._busy(key) from None
        finally:
            if not has_it and turn.is_set():  # the place came, and whom it came for has gone
                self._leave(key)
            elif not has_it:
                self._forget(key, turn)

    def _leave(self, key: str) -> None:
        """Hand the place on, or give it back."""
        waiting = self._waiting.get(key)
        if waiting:
            turn = waiting[0]
            self._forget(key, turn)
            turn.set()
            return
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]

    def _forget(self, key: str, turn: anyio.Event) -> None:
        self._waiting[key].remove(turn)
        if not self._waiting[key]:
            del self._waiting[key]

    def _busy(self, key: str) -> Busy:
        num_waiting = len(self._waiting.get(key, ()))
        return Busy(
            f"{key} has {self._num_slots} {self._what} at once, and {num_waiting} more wait",
            retry_after=self._seconds,
        )
