"""What callers may cost at /v1/ws before it is known whose they are, or when they are refused.

Counted by address. A handshake that succeeds costs nothing, so that clients which send one before
every prompt never notice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fabstir.api.rates import Rates, remote_key
from fabstir.primitives.errors import Busy, SessionRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerLimits:
    """Of one address.

    Attributes:
        inits_per_second, init_burst: handshakes that fail; each is a look at the chain.
        refusals_per_second, refusal_burst: frames that are refused; each costs some 0.2 ms.
        num_addresses: that are told apart; some 200 bytes each.
    """

    inits_per_second: float = 1.0
    init_burst: int = 30
    refusals_per_second: float = 5.0
    refusal_burst: int = 100
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
        limits = limits or StrangerLimits()
        self._on_refused = on_refused
        self._inits = Rates(
            limits.inits_per_second, limits.init_burst, num_keys=limits.num_addresses, clock=clock
        )
        self._refusals = Rates(
            limits.refusals_per_second,
            limits.refusal_burst,
            num_keys=limits.num_addresses,
            clock=clock,
        )

    @asynccontextmanager
    async def handshake(self, address: str) -> AsyncGenerator[None]:
        """One handshake, counted if it fails.

        Raises:
            SessionRefused: too many of this address have failed.
        """
        key = remote_key(address)
        try:
            self._inits.take(key)
        except Busy as busy:
            self._on_refused("init")
            raise SessionRefused(
                "RATE_LIMITED",
                "too many handshakes of your address have failed: try again in "
                f"{max(1, round(busy.retry_after))} s",
            ) from None
        yield
        self._inits.give_back(key)

    def may_be_refused_again(self, address: str) -> bool:
        """Count a refused frame; False: its connection is to be closed."""
        try:
            self._refusals.take(remote_key(address))
        except Busy:
            self._on_refused("frames")
            return False
        return True
