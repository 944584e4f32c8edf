"""Where blobs are: what peers say, what this node says of its own, and what it passes on."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import anyio

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import StorageError
from fabstir.s5.formats.wire import (
    Absent,
    HashQuery,
    LocationType,
    StorageLocation,
    Trace,
    sign_location,
)
from fabstir.s5.peers.limits import PeerLimits
from fabstir.s5.peers.locations import LocationCache
from fabstir.s5.peers.network import Network
from fabstir.s5.peers.relaying import Relaying, say_absent
from fabstir.s5.peers.search import Searches
from fabstir.s5.peers.session import OwnNode, PeerSession
from fabstir.s5.peers.standing import Standing
from fabstir.s5.peers.urls import is_http_url, node_id
from fabstir.web.addresses import parse_strangers_url
from fabstir.web.reach import SETTING, Reach

_logger = logging.getLogger(__name__)

_USABLE_TYPES = (LocationType.FULL, LocationType.FILE)
"""What this node asks for: whole files by URL."""


@dataclass(frozen=True, slots=True)
class Offer:
    """How this node gives a blob.

    Attributes:
        type: FULL if `parts` also lead to the blob's tree.
        parts: the URL; of FULL also the tree's, unless it is the URL with `.obao` behind it.
    """

    type: LocationType
    parts: tuple[str, ...]


class BlobLocations:
    """The questions for blobs of this node and of its peers."""

    def __init__(
        self,
        own: OwnNode,
        network: Network,
        relaying: Relaying,
        *,
        offer: Callable[[Multihash], Awaitable[Offer | None]],
        limits: PeerLimits,
        reach: Reach,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        new_id: Callable[[], bytes],
    ) -> None:
        self._own = own
        self._network = network
        self._relaying = relaying
        self._offer = offer
        self._limits = limits
        self._reach = reach
        self._clock = clock
        self.givers = Standing(limits.avoid, monotonic)
        """Of nodes whose locations give nothing: they may still be good peers."""
        self._cache = LocationCache(limits, clock)
        # By the hash as the question has it: an answer in the other form answers another question.
        self.searches = Searches[bytes, StorageLocation](
            limits.max_searches, limits.max_locations, on_silent=on_silent, new_id=new_id
        )

    async def find(self, blob: Multihash) -> Sequence[StorageLocation]:
        """See `Peers.find`."""
        if known := self._known(blob):
            return known
        until = anyio.current_time() + self._limits.query_deadline
        async with self.searches.ask(blob.to_bytes(), partial(self._query, blob)) as search:
            found = await search.collect(until, self._limits.settle)
        return [location for location in found if self._is_for_us(location)]

    async def locate(self, blob: Multihash) -> AsyncGenerator[StorageLocation]:
        """See `Peers.locate`."""
        tried: set[tuple[bytes, tuple[str, ...]]] = set()
        for location in self._known(blob):
            tried.add((location.public_key, location.parts))
            yield location
        until = anyio.current_time() + self._limits.query_deadline
        async with self.searches.ask(blob.to_bytes(), partial(self._query, blob)) as search:
            index = 0
            while (location := await search.answer(index, until)) is not None:
                index += 1
                key = (location.public_key, location.parts)
                if key not in tried and self._is_for_us(location):
                    tried.add(key)
                    yield location

    async def can_be_had(self, blob: Multihash) -> bool:
        """Whether it is here, or a peer says where it is."""
        return await self._own_offer(blob) is not None or bool(await self.find(blob))

    def is_own_place(self, location: StorageLocation) -> bool:
        """See `Peers.is_own_place`."""
        return self._network.is_own_place(location.public_key, location.parts[0])

    def report_bad(self, location: StorageLocation) -> None:
        """See `Peers.report_bad`."""
        self._drop(location.public_key, f"{location.parts[0]} gives other bytes")

    def report_unreachable(self, location: StorageLocation) -> None:
        """See `Peers.report_unreachable`."""
        self._cache.drop(location)
        if self.givers.strike(location.public_key):
            self._cache.drop_node(location.public_key)

    async def answer(self, session: PeerSession, query: HashQuery) -> None:
        """Say what this node knows, or ask the others."""
        offer = await self._own_offer(query.hash)
        if offer is not None and offer.type in query.types:
            session.send(self._sign(query, offer).encode())
            return
        known = next((x for x in self._cache.get(query.hash) if _answers(x, query, session)), None)
        if known is not None and self._is_usable(known):
            session.send(known.encode())
            return
        trace = self._relaying.trace(query, session)
        if trace is None:
            say_absent(session, query.subject, query.trace)
        else:
            await session.beside(partial(self._pass_on, session, query, trace))

    async def _pass_on(self, session: PeerSession, query: HashQuery, trace: Trace) -> None:
        until = self._relaying.deadline(trace)
        is_answered = False
        passed_on = self._relaying.search(self.searches, query.subject, query, trace, session)
        async with passed_on as search:
            async for location in search.each(until, self._limits.settle):
                if _answers(location, query, session):
                    is_answered |= session.send(location.encode())
        if not is_answered:
            say_absent(session, query.subject, query.trace)

    def _sign(self, query: HashQuery, offer: Offer) -> StorageLocation:
        return sign_location(
            self._own.key,
            query,
            location_type=offer.type,
            expiry=int(self._clock()) + self._limits.offer_lifetime,
            parts=offer.parts,
            crypto=self._own.crypto,
        )

    async def _own_offer(self, blob: Multihash) -> Offer | None:
        try:
            return await self._offer(blob)
        except StorageError:
            _logger.warning("a peer's question cannot be answered", exc_info=True)
            return None

    def take(self, session: PeerSession, location: StorageLocation) -> None:
        """What a peer answers."""
        if location.subject not in self.searches:
            return  # nobody asked, or too late
        session.has_answered()
        accepted = location if self._is_sound(session, location) else None
        if accepted is not None and self._may_be_fetched(accepted):
            self._cache.add(accepted)
        self.searches.answer(location.subject, session, accepted)

    def take_absent(self, session: PeerSession, message: Absent) -> None:
        """A peer has it not."""
        session.has_answered()
        self.searches.answer(message.subject, session, None, message.trace_id)

    def _known(self, blob: Multihash) -> list[StorageLocation]:
        return [location for location in self._cache.get(blob) if self._is_usable(location)]

    def _query(self, blob: Multihash, question_id: bytes) -> set[object]:
        types = tuple(int(kind) for kind in _USABLE_TYPES)
        return self._relaying.ask(HashQuery(hash=blob, types=types), question_id)

    def _is_usable(self, location: StorageLocation) -> bool:
        node = location.public_key
        return not (self._network.standing.is_avoided(node) or self.givers.is_avoided(node))

    def _is_for_us(self, location: StorageLocation) -> bool:
        return self._is_usable(location) and self._may_be_fetched(location)

    def _is_sound(self, session: PeerSession, location: StorageLocation) -> bool:
        """Whether it is a location, for whoever may go there."""
        if location.expiry <= self._clock():
            is_late = location.expiry + self._limits.clock_tolerance <= self._clock()
            if is_late and self._network.standing.strike(session.peer_key):
                self._drop(session.peer_key, "it sends expired locations")
            return False
        if location.type not in _USABLE_TYPES or not location.parts:
            return False
        return is_http_url(location.parts[0]) and self._is_usable(location)

    def _may_be_fetched(self, location: StorageLocation) -> bool:
        """By this node. As far as it can be told without asking a name server; the client checks
        it again."""
        if self.is_own_place(location):
            return True
        host = parse_strangers_url(location.parts[0]).host
        if self._reach.may_be_reached(host):
            return True
        _logger.info(
            "a location is not used: a peer names an address that strangers may not send us to",
            extra={"url": location.parts[0], "setting": SETTING},
        )
        return False

    def _drop(self, node: bytes, reason: str) -> None:
        _logger.warning("a peer lies", extra={"peer": node_id(node), "reason": reason})
        self._cache.drop_node(node)
        self._network.drop(node)


def on_silent(who: object) -> None:
    """A peer left a question unanswered."""
    assert isinstance(who, PeerSession)
    who.was_silent()


def _answers(location: StorageLocation, query: HashQuery, session: PeerSession) -> bool:
    """Whether the asker can use it: S5.js finds it under its own form of the hash only."""
    return (
        location.type in query.types
        and location.legacy == query.legacy
        and location.public_key != session.peer_key
    )
