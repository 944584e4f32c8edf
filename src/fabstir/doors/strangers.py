"""What callers may cost at /v1/ws before it is known whose they are, or when they are refused.

Handshakes are counted by address: all of them generously, for existing clients send one before
every prompt, and those that fail by their caller's fault strictly. Refused frames are counted by
address too, but a connection with a session has some of its own, so that a neighbour behind the
same address cannot use up what it needs.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from fabstir.primitives.errors import Busy, RemoteProtocolError, SessionRefused
from fabstir.primitives.ids import JobId
from fabstir.web.addresses import address_group
from fabstir.web.rates import Rates, Slots

_NOT_THE_CALLERS: Final = frozenset({"DRAINING", "RATE_LIMITED"})
"""Codes of handshakes that are refused because of this host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerLimits:
    """Of one address.

    Attributes:
        inits_per_second, init_burst: handshakes that fail; each is a look at the chain.
        all_inits_per_second, all_init_burst: handshakes; each is some four calls to the chain and a
            few writes to the journal. One address may be many renters.
        session_inits_per_second, session_init_burst: those among them for one session.
        inits_at_once: that are being looked at.
        refusals_per_second, refusal_burst: frames that are refused; each costs some 0.2 ms.
        own_refusals_per_second, own_refusal_burst: those of one connection with a session, before
            they count for its address.
        num_addresses: that are told apart; some 200 bytes each.
    """

    inits_per_second: float = 1.0
    init_burst: int = 30
    all_inits_per_second: float = 5.0
    all_init_burst: int = 120
    session_inits_per_second: float = 2.0
    session_init_burst: int = 60
    inits_at_once: int = 64
    refusals_per_second: float = 5.0
    refusal_burst: int = 100
    own_refusals_per_second: float = 1.0
    own_refusal_burst: int = 20
    num_addresses: int = 16_384


class Strangers:
    """The counts of one door."""

    def __init__(
        self,
        limits: StrangerLimits | None = None,
        *,
        on_refused: Callable[[str], None] = lambda _why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits = limits or StrangerLimits()
        self._on_refused = on_refused
        self._clock = clock
        self._failed = self._rates(limits.inits_per_second, limits.init_burst)
        self._all = self._rates(limits.all_inits_per_second, limits.all_init_burst)
        self._by_session = self._rates(limits.session_inits_per_second, limits.session_init_burst)
        self._at_once = Slots(limits.inits_at_once, "handshakes")
        self._refusals = self._rates(limits.refusals_per_second, limits.refusal_burst)

    def _rates(self, per_second: float, burst: int) -> Rates:
        return Rates(per_second, burst, num_keys=self._limits.num_addresses, clock=self._clock)

    def caller(self, address: str) -> CallerRates:
        """A connection of this address was opened."""
        return CallerRates(self, address_group(address))

    @asynccontextmanager
    async def handshake(
        self, key: str, job_id: JobId, *, has_session: bool
    ) -> AsyncGenerator[None]:
        """One handshake; see `CallerRates.handshake`.

        Args:
            has_session: others' failures at its address are not its own.
        """
        with ExitStack() as place:
            try:
                if not has_session:
                    self._failed.require(key)
                place.enter_context(self._at_once.hold(key))
                self._all.take(key)
                # By both: else anybody could use up the handshakes of somebody else's session.
                self._by_session.take(f"{key} {job_id % (1 << 64)}")
            except Busy as busy:
                self._on_refused("init")
                raise SessionRefused(
                    "RATE_LIMITED",
                    "too many handshakes of your address, or too many that failed: try again in "
                    f"{max(1, math.ceil(busy.retry_after))} s",
                ) from None
            with self._charging(key):
                yield

    @contextmanager
    def _charging(self, key: str) -> Generator[None]:
        try:
            yield
        except RemoteProtocolError:
            self._failed.charge(key)
            raise
        except SessionRefused as refused:
            if refused.code not in _NOT_THE_CALLERS:
                self._failed.charge(key)
            raise

    def own_refusals(self) -> Rates:
        """For a connection that has opened a session."""
        limits = self._limits
        return Rates(
            limits.own_refusals_per_second, limits.own_refusal_burst, num_keys=1, clock=self._clock
        )

    def may_be_refused_again(self, key: str) -> bool:
        """Count a refused frame of an address; False: there are too many."""
        try:
            self._refusals.take(key)
        except Busy:
            self._on_refused("frames")
            return False
        return True


class CallerRates:
    """One connection. Made by `Strangers.caller`."""

    def __init__(self, strangers: Strangers, key: str) -> None:
        self._strangers = strangers
        self._key = key
        self._own: Rates | None = None

    @asynccontextmanager
    async def handshake(self, job_id: JobId) -> AsyncGenerator[None]:
        """One handshake for a session; once one has succeeded, the connection has a session.

        Raises:
            SessionRefused: RATE_LIMITED, with the seconds, if its address has sent too many.
        """
        has_session = self._own is not None
        async with self._strangers.handshake(self._key, job_id, has_session=has_session):
            yield
        self._own = self._own or self._strangers.own_refusals()

    def may_be_refused_again(self) -> bool:
        """Count a refused frame; False: the connection is to be closed."""
        if self._own is not None:
            try:
                self._own.take("")
            except Busy:
                pass  # what it has of its own is used up: it is one of its address like any other
            else:
                return True
        return self._strangers.may_be_refused_again(self._key)
