"""Several portals as one place: the healthy ones first, the next one where one fails."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, TypeVar

import anyio

from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import (
    NotFound,
    PortalError,
    PortalUnavailable,
    StorageError,
    StorageFull,
)
from fabstir.protocol.crypto import Crypto
from fabstir.s5.portals._conclude import conclude
from fabstir.s5.portals.groups import has_groups, read_groups
from fabstir.s5.portals.health import Backoff, Health, PortalHealth
from fabstir.s5.portals.http import outcome_of
from fabstir.s5.portals.portal import Portal
from fabstir.s5.portals.registry import PoolRegistry
from fabstir.s5.portals.source import UploadSource, bytes_source, spooled_source
from fabstir.s5.portals.spool import open_spool
from fabstir.s5.verified.tree import GroupTree

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

BYTES_PER_TB: Final = 10**12

DEFAULT_BACKOFF: Final = Backoff()


def _random() -> float:
    return secrets.randbits(53) / (1 << 53)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalUsage:
    """What an account stores at one portal.

    Attributes:
        stored_bytes: None: the portal does not say, or nobody is logged in there.
        usd_per_month: what that costs at the configured price; None: there is none.
        error: why the portal did not answer; "" if it did.
    """

    url: str
    stored_bytes: int | None
    usd_per_month: Decimal | None
    error: str


class PortalPool:
    """`ports.Blobs` over portals; `registry` is `ports.EntryRegistry` over the same ones.

    Attributes:
        name: for logs.
        registry: the entries that these portals have.
    """

    name: Final = "portals"

    def __init__(
        self,
        portals: Sequence[Portal],
        crypto: Crypto,
        *,
        copies: int = 1,
        usd_per_tb_month: Mapping[str, Decimal] | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random,
        spool_folder: Path | None = None,
    ) -> None:
        """
        Args:
            copies: how many portals a blob is stored at; fewer, with a warning, where not as many
                take it, but never none.
            usd_per_tb_month: what portals charge, by URL; a TB is 10^12 bytes.
            random: numbers from 0 to below 1, for the jitter of pauses.
        """
        self.portals = tuple(portals)
        self._crypto = crypto
        self._copies = copies
        self._prices = usd_per_tb_month or {}
        self._spool_folder = spool_folder
        self._health = {portal.url: Health(backoff, clock, random) for portal in portals}
        self.registry = PoolRegistry(self.portals, self.guarded)

    def health(self) -> list[PortalHealth]:
        """How each portal does, the best first."""
        return [self._health[portal.url].report(portal.url) for portal in self._ordered()]

    async def put(
        self, data: bytes | AsyncIterable[bytes], *, reason: str, may_use_reserve: bool = False
    ) -> BlobId:
        """See `ports.Blobs`: in the account's name at each of the first `copies` portals.

        Raises:
            PortalError: not one portal took it; `retry_after` where all are being left alone.
            StorageFull: the disk does not hold the copy that a stream needs.
        """
        if isinstance(data, bytes):
            return await self.upload(bytes_source(data, self._crypto))
        async with spooled_source(data, self._spool_folder) as source:
            return await self.upload(source)

    async def upload(self, source: UploadSource) -> BlobId:
        """Store what can be read again from any offset. As `put`."""
        candidates = iter(self._ordered())
        stored: list[str] = []
        failures: list[StorageError] = []

        async def store_one() -> None:
            for portal in candidates:  # shared: each portal is tried once
                try:
                    await self.guarded(portal, lambda p=portal: p.upload(source))
                except PortalError as exc:
                    failures.append(exc)
                else:
                    stored.append(portal.url)
                    return

        async with anyio.create_task_group() as tasks:
            for _ in range(min(self._copies, len(self.portals))):
                tasks.start_soon(store_one)
        if not stored:
            raise conclude(f"blob {source.blob.encode()} was stored nowhere", failures)
        if len(stored) < self._copies:
            _LOG.warning(
                "blob has fewer copies than wanted",
                extra={"blob": source.blob.encode(), "copies": len(stored), "of": self._copies},
            )
        return source.blob

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """See `ports.Blobs`."""
        return await self._first(
            blob, lambda portal: portal.get(blob, max_bytes=max_bytes), self._ordered()
        )

    async def read(
        self, blob: BlobId, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes]:
        """See `ports.Blobs`. Of a long blob whose outboard a portal has, only what is asked for is
        fetched, each group verified, from the next portal where one fails half-way. Of any other
        the whole is verified in a temporary file first.
        """
        end = blob.size if end is None else min(end, blob.size)
        failure: PortalError | None = None
        if (tree := await self._tree(blob)) is not None:
            portals = self._ordered()
            reads = read_groups(start, end, lambda f, n: self._run(tree, f, n, portals))
            try:
                async with aclosing(reads):
                    async for piece in reads:
                        yield piece
                        start += len(piece)
            except PortalError as exc:
                failure = exc  # portals without ranges, perhaps: the rest out of the whole
            else:
                return
        async with open_spool(self._spool_folder) as spool:

            async def fetch(portal: Portal) -> None:
                await spool.clear()
                await portal.fetch(blob.multihash, blob.size, spool, max_bytes=blob.size)

            try:
                await self._first(blob.multihash, fetch, self._ordered())
            except PortalError as exc:
                raise failure or exc from exc
            async for piece in spool.read(start, end):
                yield piece

    async def _tree(self, blob: BlobId) -> GroupTree | None:
        """Of the first portal that has it; those that fail are asked for bytes later."""
        if not has_groups(blob):
            return None
        for portal in self._ordered():
            try:
                tree = await self.guarded(portal, lambda p=portal: p.tree(blob))
            except StorageError as exc:
                _LOG.info("no outboard", extra={"portal": portal.url, "reason": str(exc)})
            else:
                if tree is not None:
                    return tree
        return None

    async def _run(self, tree: GroupTree, first: int, count: int, portals: list[Portal]) -> bytes:
        """Some groups, from the first portal that gives them; it stays in front."""
        blob = tree.blob.multihash

        async def fetch(portal: Portal) -> bytes:
            data = await portal.run(tree, first, count)
            portals.remove(portal)
            portals.insert(0, portal)
            return data

        return await self._first(blob, fetch, tuple(portals))

    async def release(self, blobs: Iterable[Multihash]) -> None:
        """See `ports.Blobs`: at every portal where somebody is logged in.

        Raises:
            PortalError: not one portal could be asked. Where only some could not, a warning is
                logged: they keep, and charge for, what is released.
        """
        portals = [portal for portal in self.portals if portal.session.token is not None]
        wanted = tuple(blobs)
        failures: list[StorageError] = []

        async def release_at(portal: Portal) -> None:
            try:
                for blob in wanted:
                    await self.guarded(portal, lambda b=blob: portal.unpin(b))
            except StorageError as exc:
                failures.append(exc)
                _LOG.warning(
                    "portal keeps released blobs", extra={"portal": portal.url, "reason": str(exc)}
                )

        async with anyio.create_task_group() as tasks:
            for portal in portals:
                tasks.start_soon(release_at, portal)
        if portals and len(failures) == len(portals):
            raise conclude(f"{len(wanted)} blobs were released nowhere", failures)

    async def relabel(self, blobs: Iterable[Multihash], *, reason: str) -> None:
        """See `ports.Blobs`: portals keep no reasons."""

    async def usage(self) -> list[PortalUsage]:
        """What is stored at each portal, and what it costs; never raises for one that fails."""
        found: dict[str, PortalUsage] = {}

        async def ask(portal: Portal) -> None:
            stored, error = None, ""
            try:
                stored = (await self.guarded(portal, portal.stats)).used_bytes
            except StorageError as exc:
                error = str(exc)
            price = self._prices.get(portal.url)
            cost = None if price is None or stored is None else price * stored / BYTES_PER_TB
            found[portal.url] = PortalUsage(
                url=portal.url, stored_bytes=stored, usd_per_month=cost, error=error
            )

        async with anyio.create_task_group() as tasks:
            for portal in self.portals:
                tasks.start_soon(ask, portal)
        return [found[portal.url] for portal in self.portals]

    async def guarded(self, portal: Portal, attempt: Callable[[], Awaitable[T]]) -> T:
        """Ask one portal, unless it is being left alone, and remember how it did.

        Raises:
            PortalUnavailable: it is being left alone; `retry_after` says for how long.
            Whatever the attempt raises.
        """
        health = self._health[portal.url]
        if not health.may_ask():
            raise PortalUnavailable(
                portal.url,
                "it failed before and is left alone for a while",
                retry_after=health.closed_for,
            )
        start = anyio.current_time()
        try:
            result = await attempt()
        except StorageError as exc:
            outcome = outcome_of(exc)
            wait = exc.retry_after if isinstance(exc, PortalUnavailable) else 0.0
            if outcome is None:
                health.abandon()
            else:
                seconds = anyio.current_time() - start
                health.note(outcome, seconds, error=str(exc), retry_after=wait)
            raise
        except BaseException:
            health.abandon()
            raise
        health.note("ok", anyio.current_time() - start)
        return result

    async def _first(
        self,
        blob: Multihash,
        attempt: Callable[[Portal], Awaitable[T]],
        portals: Sequence[Portal],
    ) -> T:
        """What the first portal that can gives."""
        failures: list[StorageError] = []
        for portal in portals:
            try:
                return await self.guarded(portal, lambda p=portal: attempt(p))
            except StorageFull:
                raise  # it is our disk, whatever the portal
            except StorageError as exc:
                failures.append(exc)
        others = [f for f in failures if not isinstance(f, PortalError | NotFound)]
        if others and len(others) == len(failures):
            raise others[0]
        if failures and all(isinstance(failure, NotFound) for failure in failures):
            raise NotFound(f"none of {len(failures)} portals has blob {blob.to_bytes().hex()}")
        raise conclude(f"blob {blob.to_bytes().hex()} was not fetched", failures)

    def _ordered(self) -> list[Portal]:
        return sorted(self.portals, key=lambda portal: self._health[portal.url].rank)
