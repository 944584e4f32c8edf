"""Retrying what may be retried, for as long as it makes progress."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from fabstir.primitives.errors import PortalUnavailable
from fabstir.s5.portals.http import PortalPatience

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


async def keep_trying(
    attempt: Callable[[], Awaitable[T]], reached: Callable[[], int], patience: PortalPatience
) -> T:
    """Call `attempt` until it succeeds, or failed too often in a row without getting further.

    Args:
        reached: how many bytes are done.

    Raises:
        PortalUnavailable: what the last try raised; or at once, if the portal asks for a longer
            pause than a caller should wait for.
    """
    failures, furthest, since = 0, reached(), anyio.current_time()
    while True:
        try:
            return await attempt()
        except PortalUnavailable as exc:
            if reached() > furthest:
                failures, furthest, since = 0, reached(), anyio.current_time()
            failures += 1
            # One that stalls is silent the next time, too: elsewhere it goes faster.
            has_stalled = anyio.current_time() - since >= patience.stall_timeout
            if failures >= patience.max_failures or has_stalled:
                raise
            if exc.retry_after > patience.max_delay:
                raise
            delay = max(patience.delay(failures - 1), exc.retry_after)
            _LOG.info(
                "transfer interrupted",
                extra={"portal": exc.url, "reason": exc.reason, "bytes": furthest, "delay": delay},
            )
            await anyio.sleep(delay)
