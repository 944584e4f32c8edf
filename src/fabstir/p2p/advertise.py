"""Keep a host findable: provider records for its models and its signed record, renewed in time."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import anyio

from fabstir.p2p.limits import (
    ADVERTISE_FIRST_RETRY,
    ADVERTISE_MAX_RETRY,
    PROVIDE_BURST,
    PROVIDE_WINDOW,
    RECORD_LIFETIME,
)
from fabstir.p2p.node import P2PNode
from fabstir.primitives.errors import HostRecordInvalid, PeerError
from fabstir.primitives.ids import ModelId
from fabstir.telemetry.waiting import Changes

logger = logging.getLogger(__name__)

MakeRecord = Callable[[int, int], bytes]
"""(sequence, expires_at in Unix seconds) to the encoded, signed host record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertiserStatus:
    """What is known about being found. Times are Unix times.

    Attributes:
        last_success: when some peer last took a record, or None.
        kept_since: since when some peer has kept one without a break, or None.
        expires_at: when what they keep expires, unless it is renewed.
        num_keepers: how many peers took the last host record.
        num_informed: how many took the last provider record of the least known model.
        last_error: why the last publication failed, or None if it did not.
    """

    last_success: float | None = None
    kept_since: float | None = None
    expires_at: float = 0.0
    num_keepers: int = 0
    num_informed: int = 0
    last_error: str | None = None

    def complaints(self, now: float) -> tuple[str, ...]:
        """What is not as it should be, for `fabstir status`; nothing if hosts are found by both
        records."""
        since = self.kept_since
        if since is None and self.last_error is None:
            return ()  # it is being published for the first time
        if since is None or now >= self.expires_at:
            reason = self.last_error or "its records have expired"
            return (f"{reason}: renters find it only by the registry and its own address",)
        kept = f"for {max(0.0, now - since):.0f} s"
        found: list[str] = []
        if self.last_error is not None:
            rest = self.expires_at - now
            found.append(f"its records are kept for {rest:.0f} s more only: {self.last_error}")
        if not self.num_keepers:
            found.append(
                f"{_peers(self.num_informed)} kept {kept} that it serves its models, but none its "
                "host record: renters ask it for that itself, so it must be reachable for them"
            )
        elif not self.num_informed:
            found.append(
                f"{_peers(self.num_keepers)} kept its host record {kept}, but none that it serves "
                "its models: renters find it by the registry only"
            )
        return tuple(found)


def _peers(number: int) -> str:
    return "one peer has" if number == 1 else f"{number} peers have"


class Advertiser:
    """Publishes until its block is left."""

    def __init__(
        self,
        node: P2PNode,
        make_record: MakeRecord,
        models: Sequence[ModelId],
        lifetime: int,
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._make_record = make_record
        self._models = tuple(models)
        self._lifetime = lifetime
        self._clock = clock
        self._sequence = 0
        self._retry = ADVERTISE_FIRST_RETRY
        self._publications = Changes()
        self.status = AdvertiserStatus()

    async def wait_published(self) -> AdvertiserStatus:
        """The status after the next publication, good or bad."""
        await self._publications.wait()
        return self.status

    def complaints(self) -> tuple[str, ...]:
        """See `AdvertiserStatus.complaints`."""
        return self.status.complaints(self._clock())

    async def run(self) -> None:
        while True:
            await self._publish()
            self._publications.tell()
            if self.status.last_error is None:
                self._retry = ADVERTISE_FIRST_RETRY
                is_complete = self.status.num_keepers and self.status.num_informed
                half_life = self._lifetime / 2
                await self._pause(half_life if is_complete else min(half_life, ADVERTISE_MAX_RETRY))
            else:
                await self._pause(self._retry)
                self._retry = min(self._retry * 2, ADVERTISE_MAX_RETRY)

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless the first peer comes."""
        is_alone = (await self._node.stats()).num_routing_peers == 0
        if not is_alone:
            await anyio.sleep(seconds)
            return
        with suppress(TimeoutError):
            await self._node.wait_for_peers(timeout=seconds)

    async def _publish(self) -> None:
        now = self._clock()
        # Time in milliseconds, so that a host that lost its state does not fall behind itself.
        self._sequence = max(self._sequence + 1, int(now * 1000))
        expires_at = int(now) + self._lifetime
        try:
            record = self._make_record(self._sequence, expires_at)
            num_keepers = await self._node.put_host_record(record)
            num_informed = await self._provide_models()
        except (PeerError, TimeoutError) as exc:
            # An invalid record stays invalid: only the operator can change that.
            level = logging.ERROR if isinstance(exc, HostRecordInvalid) else logging.WARNING
            logger.log(level, "advertising failed", extra={"cause": str(exc)})
            self.status = replace(self.status, last_error=str(exc) or "no answer in time")
            return
        if not num_keepers and not num_informed:
            error = "no other DHT server took the record yet"
            self.status = replace(self.status, last_error=error)
            return
        known = self.status
        is_unbroken = known.kept_since is not None and now < known.expires_at
        self.status = AdvertiserStatus(
            last_success=self._clock(),
            kept_since=known.kept_since if is_unbroken else now,
            expires_at=expires_at,
            num_keepers=num_keepers,
            num_informed=num_informed,
        )

    async def _provide_models(self) -> int:
        """Returns how many peers the least known model was told to."""
        informed: list[int] = []
        for index, model_id in enumerate(self._models):
            if index and index % PROVIDE_BURST == 0:
                await anyio.sleep(PROVIDE_WINDOW)
            informed.append(await self._node.provide(model_id))
        return min(informed)


@asynccontextmanager
async def open_advertiser(
    node: P2PNode,
    make_record: MakeRecord,
    models: Sequence[ModelId],
    *,
    lifetime: int = RECORD_LIFETIME,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Advertiser]:
    """Advertise for the length of the block: at once, at half of each record's life, when asked,
    and when the first peer comes.

    Args:
        make_record: makes the signed record, with the prices of that moment.
        models: at least one.
        lifetime: seconds until a record expires.
        clock: Unix time in seconds.

    Raises:
        ValueError: no models.
    """
    if not models:
        raise ValueError("a host without models has nothing to advertise")
    advertiser = Advertiser(node, make_record, models, lifetime, clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(advertiser.run)
        yield advertiser
        tasks.cancel_scope.cancel()
