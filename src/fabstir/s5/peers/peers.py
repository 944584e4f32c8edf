"""All peers together: who has this blob, and what is the newest entry of this key?"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial

import httpx

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import (
    BlobTooLarge,
    NotFound,
    PortalError,
    PortalLied,
    PortalUnavailable,
)
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.formats.wire import (
    Absent,
    AnnouncePeers,
    HashQuery,
    PeerMessage,
    Refused,
    RegistryQuery,
    Signed,
    StorageLocation,
)
from fabstir.s5.peers.announcing import Announcements
from fabstir.s5.peers.blobs import BlobLocations, Offer
from fabstir.s5.peers.connection import MessageConnection
from fabstir.s5.peers.entries import PEERS, PeerEntries, PeersRegistry
from fabstir.s5.peers.http import fetch_whole, gives, open_http
from fabstir.s5.peers.limits import PeerLimits
from fabstir.s5.peers.network import Network, PeerStatus
from fabstir.s5.peers.relaying import Relaying
from fabstir.s5.peers.session import OwnNode, PeerSession
from fabstir.s5.peers.urls import PeerUrl, node_id, parse_peer_url
from fabstir.s5.ports import EntryRegistry
from fabstir.telemetry.background import running
from fabstir.web.reach import STRANGERS, Reach

_logger = logging.getLogger(__name__)

_QUESTION_ID_BYTES = 8

_KEY_TYPE = b"\xed"
"""What a registry key begins with, and no hash."""

_DEFAULT_LIMITS = PeerLimits()


class Peers:
    """The peers of this node. Made by `open_peers`."""

    def __init__(
        self,
        own: OwnNode,
        *,
        offer: Callable[[Multihash], Awaitable[Offer | None]],
        entries: EntryRegistry,
        limits: PeerLimits,
        reach: Reach,
        has_own_peers: bool,
        client: httpx.AsyncClient,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        jitter: random.Random,
    ) -> None:
        self.network = Network(
            own,
            limits,
            on_message=self._take,
            on_gone=self._forget,
            on_ready=self._greet,
            reach=reach,
            has_own_peers=has_own_peers,
            monotonic=monotonic,
            jitter=jitter,
        )
        self._own = own
        self._client = client
        new_id = partial(own.token_bytes, _QUESTION_ID_BYTES)
        relaying = Relaying(limits, lambda but: self.network.one_each(but=but), new_id)
        self._blobs = BlobLocations(
            own,
            self.network,
            relaying,
            offer=offer,
            limits=limits,
            reach=reach,
            clock=clock,
            monotonic=monotonic,
            new_id=new_id,
        )
        self._announcements = Announcements(self.network, limits, self._blobs.can_be_had)
        self._entries = PeerEntries(
            self.network,
            relaying,
            self._announcements,
            entries=entries,
            limits=limits,
            monotonic=monotonic,
            new_id=new_id,
        )
        self.registry = PeersRegistry(self.network, self._entries, self._announcements)

    @property
    def name(self) -> str:
        """For logs."""
        return PEERS

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

    async def serve(self, connection: MessageConnection) -> str:
        """Be a peer of whoever connected to `/s5/p2p`, until it leaves or breaks a rule.

        Returns:
            Why this node ends it, for the other end; "": it left.
        """
        return await self.network.serve(connection)

    async def find(self, blob: Multihash) -> Sequence[StorageLocation]:
        """Where a blob can be fetched, the fastest answer first; nothing of it is checked yet.

        Report what does not hold with `report_bad` or `report_unreachable`.
        """
        return await self._blobs.find(blob)

    def locate(self, blob: Multihash) -> AsyncGenerator[StorageLocation]:
        """As `find`, one after another: who asks for a further one waits for further peers."""
        return self._blobs.locate(blob)

    async def place(self, blob: Multihash) -> StorageLocation | None:
        """A location that gives the blob now; its bytes are not checked."""
        async with aclosing(self.locate(blob)) as locations:
            async for location in locations:
                if location.public_key == self._own.public_key:
                    continue  # another node remembers what this one had
                is_strangers = not self.is_own_place(location)
                if await gives(self._client, location.parts[0], is_strangers=is_strangers):
                    return location
                self.report_unreachable(location)
        return None

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
        self._blobs.givers.served(location.public_key)
        return data

    def is_own_place(self, location: StorageLocation) -> bool:
        """Whether a peer of the settings signed it, for its own door where the settings have it:
        then it is fetched wherever that is."""
        return self._blobs.is_own_place(location)

    def report_bad(self, location: StorageLocation) -> None:
        """Its bytes are not the blob's: the node that signed it is dropped, and avoided."""
        self._blobs.report_bad(location)

    def report_unreachable(self, location: StorageLocation) -> None:
        """It gave nothing: it is forgotten, and if that is usual, so are its node's others."""
        self._blobs.report_unreachable(location)

    def broadcast(self, entry: SignedEntry) -> None:
        """Tell all peers of an entry, once its blob can be had. Waits for nobody."""
        self._announcements.announce(entry)

    async def run(self, urls: Iterable[PeerUrl]) -> None:
        """Keep connections, and tell peers what there is to tell, until it is cancelled."""
        async with running(self._announcements.run):
            await self.network.run(urls)

    def _require_peers(self) -> None:
        if not self.network.sessions:
            raise PortalUnavailable(PEERS, "none is connected")

    def _greet(self, session: PeerSession) -> None:
        if session.relays:
            self._announcements.tell_recent(session)

    def _forget(self, session: PeerSession) -> None:
        self._blobs.searches.gone(session)
        self._entries.searches.gone(session)

    async def _take(self, session: PeerSession, message: PeerMessage) -> None:
        match message:
            case HashQuery():
                await self._blobs.answer(session, message)
            case StorageLocation():
                self._blobs.take(session, message)
            case RegistryQuery():
                await self._entries.answer(session, message)
            case SignedEntry():
                await self._entries.take(session, message)
            case Absent():
                self._take_absent(session, message)
            case Refused():
                self._entries.take_refusal(session, message)
            case Signed(message=AnnouncePeers(peers=peers)):
                self.network.discover(session, peers)
            case _:
                pass  # streams, handshakes out of turn, and what later nodes will say

    def _take_absent(self, session: PeerSession, message: Absent) -> None:
        if message.subject.startswith(_KEY_TYPE):
            self._entries.take_absent(session, message)
        else:
            self._blobs.take_absent(session, message)


@asynccontextmanager
async def open_peers(
    urls: Iterable[str],
    *,
    node_key: bytes,
    crypto: Crypto,
    offer: Callable[[Multihash], Awaitable[Offer | None]],
    entries: EntryRegistry,
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
        node_key: the node's ed25519 seed, of `load_node_key`: it signs nothing else.
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
            has_own_peers=bool(peer_urls),
            client=client,
            clock=clock,
            monotonic=monotonic,
            jitter=jitter or random.SystemRandom(),
        )
        async with running(partial(peers.run, peer_urls)):
            yield peers
