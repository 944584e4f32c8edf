"""All peers together: who has this blob, and what is the newest entry of this key?"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import httpx

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import (
    BlobTooLarge,
    NotFound,
    PortalError,
    PortalLied,
    PortalUnavailable,
    StorageError,
)
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.s5.multikey import encode_multikey
from fabstir.protocol.s5.registry import SignedEntry
from fabstir.protocol.s5.wire import (
    Absent,
    AnnouncePeers,
    HashQuery,
    LocationType,
    Message,
    RegistryQuery,
    Signed,
    StorageLocation,
    sign_location,
)
from fabstir.storage.peers.connection import MessageConnection
from fabstir.storage.peers.http import fetch_whole, open_http
from fabstir.storage.peers.limits import PeerLimits
from fabstir.storage.peers.locations import LocationCache
from fabstir.storage.peers.network import Network, PeerStatus
from fabstir.storage.peers.search import Searches
from fabstir.storage.peers.session import OwnNode, PeerSession
from fabstir.storage.peers.standing import Standing
from fabstir.storage.peers.urls import is_http_url, node_id, parse_peer_url
from fabstir.storage.ports import Registry
from fabstir.telemetry.background import running
from fabstir.web.addresses import parse_strangers_url
from fabstir.web.reach import SETTING, STRANGERS, Reach

_logger = logging.getLogger(__name__)

_DEFAULT_LIMITS = PeerLimits()

_USABLE_TYPES = (LocationType.FULL, LocationType.FILE)
"""What this node asks for: whole files by URL."""

_PEERS = "S5 peers"
"""What errors call all peers together."""


@dataclass(frozen=True, slots=True)
class Offer:
    """How this node gives a blob.

    Attributes:
        type: FULL if `parts` also lead to the blob's tree.
        parts: the URL; of FULL also the tree's, unless it is the URL with `.obao` behind it.
    """

    type: LocationType
    parts: tuple[str, ...]


class Peers:
    """The peers of this node. Made by `open_peers`."""

    def __init__(
        self,
        own: OwnNode,
        *,
        offer: Callable[[Multihash], Awaitable[Offer | None]],
        entries: Registry,
        limits: PeerLimits,
        reach: Reach,
        client: httpx.AsyncClient,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        jitter: random.Random,
    ) -> None:
        self.registry = PeersRegistry(self)
        self.network = Network(
            own,
            limits,
            on_message=self._take,
            on_gone=self._forget,
            reach=reach,
            monotonic=monotonic,
            jitter=jitter,
        )
        self._own = own
        self._offer = offer
        self._entries = entries
        self._limits = limits
        self._reach = reach
        self._client = client
        self._clock = clock
        self._givers = Standing(limits.avoid, monotonic)
        """Of nodes whose locations give nothing: they may still be good peers."""
        self._cache = LocationCache(limits, clock)
        most = limits.max_locations
        self._blob_searches = Searches[Multihash, StorageLocation](limits.max_searches, most)
        self._key_searches = Searches[bytes, SignedEntry](limits.max_searches, most)

    @property
    def name(self) -> str:
        """For logs."""
        return _PEERS

    @property
    def node_id(self) -> str:
        """This node's own id, as peers' URLs name it."""
        return node_id(self._own.public_key)

    def status(self) -> tuple[PeerStatus, ...]:
        """Every connected peer, and every one that is to be dialled."""
        return self.network.status()

    async def wait_connected(self, num_peers: int = 1) -> None:
        """Wait until so many connections are there; put it under a deadline."""
        await self.network.wait_connected(num_peers)

    async def serve(self, connection: MessageConnection) -> None:
        """Be a peer of whoever connected to `/s5/p2p`, until it leaves or breaks a rule."""
        await self.network.serve(connection)

    async def find(self, blob: Multihash) -> Sequence[StorageLocation]:
        """Where a blob can be fetched, the fastest answer first; nothing of it is checked yet.

        Report what does not hold with `report_bad` or `report_unreachable`.
        """
        if known := self._known(blob):
            return known
        until = anyio.current_time() + self._limits.query_deadline
        async with self._blob_searches.ask(blob, partial(self._query, blob)) as search:
            found = await search.collect(until, self._limits.settle)
        return [location for location in found if self._is_usable(location)]

    async def locate(self, blob: Multihash) -> AsyncGenerator[StorageLocation]:
        """As `find`, one after another: who asks for a further one waits for further peers."""
        tried: set[tuple[bytes, tuple[str, ...]]] = set()
        for location in self._known(blob):
            tried.add((location.public_key, location.parts))
            yield location
        until = anyio.current_time() + self._limits.query_deadline
        async with self._blob_searches.ask(blob, partial(self._query, blob)) as search:
            index = 0
            while (location := await search.answer(index, until)) is not None:
                index += 1
                key = (location.public_key, location.parts)
                if key not in tried and self._is_usable(location):
                    tried.add(key)
                    yield location

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """A whole blob in memory, verified against its hash; for large ones see `find`.

        Raises:
            NotFound: the connected peers do not have it.
            PortalError: no peer is connected, or no location gave the blob.
            BlobTooLarge: it is longer than `max_bytes`, or its only locations lie so.
        """
        failures: list[PortalError | BlobTooLarge] = []
        async with aclosing(self.locate(blob)) as locations:
            async for location in locations:
                try:
                    return await self._fetch(location, max_bytes)
                except (PortalError, BlobTooLarge) as error:
                    _logger.info(
                        "a location gave nothing",
                        extra={"url": location.parts[0], "reason": str(error)},
                    )
                    failures.append(error)
        if failures:
            raise next((e for e in failures if isinstance(e, BlobTooLarge)), failures[-1])
        self._require_peers()
        raise NotFound(f"no connected peer has blob {blob.to_bytes().hex()}")

    async def _fetch(self, location: StorageLocation, max_bytes: int) -> bytes:
        try:
            data = await fetch_whole(
                self._client,
                location.parts[0],
                location.hash,
                max_bytes=max_bytes,
                crypto=self._own.crypto,
                is_strangers=not self.is_own_place(location),
            )
        except PortalLied:
            self.report_bad(location)
            raise
        except PortalError:
            self.report_unreachable(location)
            raise
        self._givers.served(location.public_key)
        return data

    def is_own_place(self, location: StorageLocation) -> bool:
        """Whether a peer of the settings signed it, for its own door where the settings have it:
        then it is fetched wherever that is."""
        return self.network.is_own_place(location.public_key, location.parts[0])

    def report_bad(self, location: StorageLocation) -> None:
        """Its bytes are not the blob's: the node that signed it is dropped, and avoided."""
        self._drop(location.public_key, f"{location.parts[0]} gives other bytes")

    def report_unreachable(self, location: StorageLocation) -> None:
        """It gave nothing: it is forgotten, and if that is usual, so are its node's others."""
        self._cache.drop(location)
        if self._givers.strike(location.public_key):
            self._cache.drop_node(location.public_key)

    async def ask_registry(self, public_key: bytes) -> SignedEntry | None:
        """The newest entry of a key that peers have, verified.

        Raises:
            PortalUnavailable: no peer is connected.
        """
        self._require_peers()
        frame = RegistryQuery(public_key=public_key).encode()
        until = anyio.current_time() + self._limits.query_deadline
        async with self._key_searches.ask(public_key, partial(self._send, frame)) as search:
            found = await search.collect(until, self._limits.settle)
        return max(found, key=lambda entry: entry.revision, default=None)

    def broadcast(self, entry: SignedEntry) -> int:
        """Tell all peers of an entry; returns how many take it. Waits for nobody."""
        return len(self._send(entry.encode()))

    def _known(self, blob: Multihash) -> list[StorageLocation]:
        return [location for location in self._cache.get(blob) if self._is_usable(location)]

    def _is_usable(self, location: StorageLocation) -> bool:
        node = location.public_key
        return not (self.network.standing.is_avoided(node) or self._givers.is_avoided(node))

    def _query(self, blob: Multihash) -> set[object]:
        types = tuple(int(kind) for kind in _USABLE_TYPES)
        return self._send(HashQuery(hash=blob, types=types).encode())

    def _send(self, frame: bytes) -> set[object]:
        return set(self.network.send_to_each(frame))

    def _require_peers(self) -> None:
        if not self.network.sessions:
            raise PortalUnavailable(_PEERS, "none is connected")

    def _forget(self, session: PeerSession) -> None:
        self._blob_searches.gone(session)
        self._key_searches.gone(session)

    def _drop(self, node: bytes, reason: str) -> None:
        _logger.warning("a peer lies", extra={"peer": node_id(node), "reason": reason})
        self._cache.drop_node(node)
        self.network.drop(node)

    async def _take(self, session: PeerSession, message: Message) -> None:
        match message:
            case HashQuery():
                await self._answer_query(session, message)
            case StorageLocation():
                self._take_location(session, message)
            case RegistryQuery():
                await self._answer_registry(session, message)
            case SignedEntry():
                await self._take_entry(session, message)
            case Absent():
                self._take_absent(session, message)
            case Signed(message=AnnouncePeers(peers=peers)):
                self.network.discover(session, peers)
            case _:
                pass  # streams, handshakes out of turn, and what later nodes will say

    async def _answer_query(self, session: PeerSession, query: HashQuery) -> None:
        offer = await self._own_offer(query.hash)
        if offer is not None and offer.type in query.types:
            location = sign_location(
                self._own.key,
                query,
                location_type=offer.type,
                expiry=int(self._clock()) + self._limits.offer_lifetime,
                parts=offer.parts,
                crypto=self._own.crypto,
            )
            session.send(location.encode())
            return
        relayed = [
            location
            for location in self._known(query.hash)
            if location.type in query.types
            and location.legacy == query.legacy
            and location.public_key != session.peer_key
        ]
        if relayed:
            session.send(relayed[0].encode())
        elif session.answers_absent:
            session.send(Absent(subject=query.subject).encode())

    async def _own_offer(self, blob: Multihash) -> Offer | None:
        try:
            return await self._offer(blob)
        except StorageError:
            _logger.warning("a peer's question cannot be answered", exc_info=True)
            return None

    def _take_location(self, session: PeerSession, location: StorageLocation) -> None:
        if location.hash not in self._blob_searches:
            return  # nobody asked, or too late
        accepted = location if self._accepts(session, location) else None
        if accepted is not None:
            self._cache.add(accepted)
        self._blob_searches.answer(location.hash, session, accepted)

    def _accepts(self, session: PeerSession, location: StorageLocation) -> bool:
        if location.expiry <= self._clock():
            is_late = location.expiry + self._limits.clock_tolerance <= self._clock()
            if is_late and self.network.standing.strike(session.peer_key):
                self._drop(session.peer_key, "it sends expired locations")
            return False
        if location.type not in _USABLE_TYPES or not location.parts:
            return False
        url = location.parts[0]
        return is_http_url(url) and self._may_be_fetched(location) and self._is_usable(location)

    def _may_be_fetched(self, location: StorageLocation) -> bool:
        """As far as it can be told without asking a name server; the client checks it again."""
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

    async def _answer_registry(self, session: PeerSession, query: RegistryQuery) -> None:
        entry = await self._own_entry(query.public_key)
        if entry is not None:
            session.send(entry.encode())
        elif session.answers_absent:
            session.send(Absent(subject=encode_multikey(query.public_key)).encode())

    async def _own_entry(self, public_key: bytes) -> SignedEntry | None:
        try:
            return await self._entries.get(public_key)
        except StorageError:
            _logger.warning("the registry cannot be read", exc_info=True)
            return None

    async def _take_entry(self, session: PeerSession, entry: SignedEntry) -> None:
        was_asked = entry.public_key in self._key_searches
        self._key_searches.answer(entry.public_key, session, entry)
        known = await self._own_entry(entry.public_key)
        if known == entry:
            return
        if known is not None and known.revision > entry.revision:
            session.send(known.encode())
            return
        if known is None and not was_asked and not session.new_keys.try_take():
            return
        try:
            await self._entries.set(entry)
        except StorageError as error:  # a fork too: the registry keeps both as evidence
            _logger.info("a peer's entry is not kept", extra={"reason": str(error)})
            return
        self.network.send_to_each(entry.encode(), but=session.peer_key)

    def _take_absent(self, session: PeerSession, message: Absent) -> None:
        try:
            blob = Multihash.from_bytes(message.subject)
        except ValueError:
            self._key_searches.answer(message.subject[1:], session, None)
        else:
            self._blob_searches.answer(blob, session, None)


class PeersRegistry:
    """`ports.Registry` of all peers together; what they keep is theirs."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def get(self, public_key: bytes) -> SignedEntry | None:
        """See `ports.Registry`: the newest that a connected peer has."""
        return await self._peers.ask_registry(public_key)

    async def set(self, entry: SignedEntry) -> None:
        """Tell all connected peers; nobody acknowledges.

        Raises:
            PortalUnavailable: no peer takes it.
        """
        if not self._peers.broadcast(entry):
            raise PortalUnavailable(_PEERS, "none takes a registry entry")


@asynccontextmanager
async def open_peers(
    urls: Iterable[str],
    *,
    node_key: bytes,
    crypto: Crypto,
    offer: Callable[[Multihash], Awaitable[Offer | None]],
    entries: Registry,
    own_uris: Sequence[str] = (),
    network: str | None = None,
    reach: Reach = STRANGERS,
    limits: PeerLimits = _DEFAULT_LIMITS,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    jitter: random.Random | None = None,
) -> AsyncGenerator[Peers]:
    """Keep connections to peers for the length of the block.

    Args:
        urls: `ws[s]://[ID@]host[:port]/s5/p2p`; with an ID, only the node with that key is
            accepted there.
        node_key: the node's ed25519 seed, `Identity.node_key()`: it signs nothing else.
        offer: how this node gives a blob; None: it has it not. Must not ask peers.
        entries: this node's own registry. Must not ask peers.
        own_uris: where others can dial this node.
        network: None: the public one; peers in another are refused.
        reach: where the peers and locations that peers name may be.
        clock: Unix seconds. `monotonic`: seconds that only grow.
        token_bytes, jitter: randomness; jitter None: the system's.

    Raises:
        ConfigError: one of the URLs is none.
    """
    own = OwnNode(
        key=node_key,
        public_key=crypto.ed25519_public_key(node_key),
        uris=tuple(own_uris),
        network=network,
        crypto=crypto,
        token_bytes=token_bytes,
    )
    peer_urls = [parse_peer_url(url) for url in urls]
    async with open_http(limits.http_timeout, reach) as client:
        peers = Peers(
            own,
            offer=offer,
            entries=entries,
            limits=limits,
            reach=reach,
            client=client,
            clock=clock,
            monotonic=monotonic,
            jitter=jitter or random.SystemRandom(),
        )
        async with running(partial(peers.network.run, peer_urls)):
            yield peers
