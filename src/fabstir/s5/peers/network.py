"""The connections to peers: dialled again and again, accepted up to a number, dropped for lies."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import anyio

from fabstir.primitives.errors import (
    AddressRefused,
    ConfigError,
    PortalUnavailable,
    RemoteProtocolError,
)
from fabstir.s5.formats.wire import AnnouncePeers, PeerInfo, PeerMessage, sign_message
from fabstir.s5.peers.connection import MessageConnection, dial
from fabstir.s5.peers.inbound import PeerPlaces
from fabstir.s5.peers.limits import PeerLimits
from fabstir.s5.peers.session import OwnNode, PeerSession, remote_address
from fabstir.s5.peers.standing import Standing
from fabstir.s5.peers.urls import PeerUrl, http_origin, node_id, parse_peer_url
from fabstir.telemetry.waiting import Changes
from fabstir.web.addresses import parse_strangers_url
from fabstir.web.reach import Reach
from fabstir.web.sockets import WEBSOCKET_SCHEMES

_logger = logging.getLogger(__name__)

_DISCOVERED_FAILURES = 3
"""After so many in a row, a peer that another one named is forgotten."""

_MAX_ANNOUNCED = 16
"""Of our peers, how many a new one is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One peer, for people.

    Attributes:
        node_id: base 58; None: not connected.
        num_received: frames of this connection.
        seconds_avoided: how much longer it is not dialled.
    """

    url: str
    node_id: str | None
    is_inbound: bool
    num_received: int
    seconds_avoided: float


class Network:
    """Every connection of this node.

    Args:
        on_message: gets what peers say after their handshake, one message of a peer at a time.
        on_gone: told of each connection that ended.
        on_ready: told of each whose handshake is done.
        reach: where peers that other peers name may be.
        has_own_peers: whether the settings name some.
    """

    def __init__(
        self,
        own: OwnNode,
        limits: PeerLimits,
        *,
        on_message: Callable[[PeerSession, PeerMessage], Awaitable[None]],
        on_gone: Callable[[PeerSession], None],
        on_ready: Callable[[PeerSession], None],
        reach: Reach,
        has_own_peers: bool,
        monotonic: Callable[[], float],
        jitter: random.Random,
    ) -> None:
        self.standing = Standing(limits.avoid, monotonic)
        self._own = own
        self._limits = limits
        self._on_message = on_message
        self._on_gone = on_gone
        self._on_ready = on_ready
        self._reach = reach
        self._has_own_peers = has_own_peers
        self._places: dict[bytes, str] = {}
        self._monotonic = monotonic
        self._jitter = jitter
        self._inbound = PeerPlaces(limits, monotonic)
        self._sessions: dict[PeerSession, bool] = {}
        """Those whose handshake is done; True: it dialled us."""
        self._dialled: dict[str, PeerUrl] = {}
        self._num_discovered = 0
        self._arrivals = Changes()
        self._found_in, self._found = anyio.create_memory_object_stream[PeerUrl](
            limits.max_discovered
        )

    @property
    def sessions(self) -> tuple[PeerSession, ...]:
        """The connected peers; one that is connected twice is there twice."""
        return tuple(self._sessions)

    @property
    def is_where_it_should_be(self) -> bool:
        """Whether a peer of the settings is connected, if they name any: strangers do not stand in
        for those."""
        return not self._has_own_peers or any(session.place for session in self._sessions)

    def status(self) -> tuple[PeerStatus, ...]:
        """Every connected peer, and every one that is to be dialled."""
        connected = [
            PeerStatus(
                url=session.url,
                node_id=node_id(session.peer_key),
                is_inbound=is_inbound,
                num_received=session.num_received,
                seconds_avoided=0.0,
            )
            for session, is_inbound in self._sessions.items()
        ]
        urls = {status.url for status in connected}
        away = [
            PeerStatus(
                url=url,
                node_id=None,
                is_inbound=False,
                num_received=0,
                seconds_avoided=self.standing.seconds_avoided(url),
            )
            for url in self._dialled
            if url not in urls
        ]
        return (*connected, *away)

    async def wait_connected(self, num_peers: int) -> None:
        """Wait until so many connections are there."""
        while len(self._sessions) < num_peers:
            await self._arrivals.wait()

    def one_each(self, *, but: bytes | None = None) -> list[PeerSession]:
        """A connection of every peer, however often it is connected.

        Args:
            but: the key of a peer that is left out.
        """
        one_each = {session.peer_key: session for session in self._sessions}
        return [session for key, session in one_each.items() if key != but]

    def drop(self, peer_key: bytes) -> None:
        """Avoid a node that lied, and end its connections."""
        self.standing.lied(peer_key)
        for session, is_inbound in self._sessions.items():
            if session.peer_key == peer_key:
                session.close()
                if not is_inbound:
                    self.standing.lied(session.url)

    async def run(self, urls: Iterable[PeerUrl]) -> None:
        """Keep connections to these peers, and to some that they name, until it is cancelled."""
        try:
            with self._found_in, self._found:
                async with anyio.create_task_group() as tasks:
                    for peer in urls:
                        if peer.url not in self._dialled:
                            self._dialled[peer.url] = peer
                            tasks.start_soon(self._keep, peer)
                    async for peer in self._found:
                        tasks.start_soon(self._try, peer)
        finally:
            for session in self._sessions:
                session.close()

    async def serve(self, connection: MessageConnection) -> str:
        """Be a peer of whoever connected, until it leaves or breaks a rule.

        Returns:
            Why this node ends it, for the other end; "": it left.
        """
        reason = self._inbound.make_room(remote_address(connection))
        if reason:
            _logger.info("too many peers", extra={"peer": connection.url, "reason": reason})
            return reason
        session = self._session(connection)
        self._inbound.enter(session)
        try:
            await self._talk(session, connection, is_inbound=True)
        except (RemoteProtocolError, PortalUnavailable) as fault:
            _logger.info("a peer is dropped", extra={"peer": connection.url, "reason": str(fault)})
            return str(fault)
        finally:
            self._inbound.leave(session)
        return session.close_reason

    async def _keep(self, peer: PeerUrl) -> None:
        num_failures = 0
        while True:
            is_well = await self._dial_once(peer, None)
            num_failures = 0 if is_well else num_failures + 1
            await anyio.sleep(self._pause(peer.url, num_failures))

    async def _try(self, peer: PeerUrl) -> None:
        """As `_keep`, for a peer that another one named: until it failed too often."""
        num_failures = 0
        while num_failures < _DISCOVERED_FAILURES:
            is_well = await self._dial_once(peer, self._reach)
            num_failures = 0 if is_well else num_failures + 1
            await anyio.sleep(self._pause(peer.url, num_failures))
        del self._dialled[peer.url]
        self._num_discovered -= 1

    async def _dial_once(self, peer: PeerUrl, reach: Reach | None) -> bool:
        """Returns whether the handshake was made and no rule broken.

        Args:
            reach: None: the settings name this peer.
        """
        is_ready = anyio.Event()
        try:
            async with dial(peer.url, self._limits.handshake_timeout, reach) as connection:
                session = self._session(
                    connection,
                    place="" if reach else http_origin(peer.url),
                    expected_key=peer.public_key,
                )
                await self._talk(session, connection, is_ready=is_ready)
        except PortalUnavailable as error:
            _logger.info("a peer is away", extra={"peer": peer.url, "reason": error.reason})
            return False
        except RemoteProtocolError as fault:
            _logger.warning("a peer is avoided", extra={"peer": peer.url, "reason": str(fault)})
            self.standing.lied(peer.url)
            return False
        return is_ready.is_set()

    def _pause(self, url: str, num_failures: int) -> float:
        limits = self._limits
        longest = min(limits.max_reconnect, limits.reconnect * 2 ** min(num_failures, 16))
        # From half to all of it, so that the peers of a node that restarts do not come at once.
        pause = longest * (0.5 + self._jitter.random() / 2)
        return max(pause, self.standing.seconds_avoided(url))

    def _session(
        self,
        connection: MessageConnection,
        *,
        place: str = "",
        expected_key: bytes | None = None,
    ) -> PeerSession:
        return PeerSession(
            connection,
            self._own,
            self._limits,
            self._monotonic,
            place=place,
            expected_key=expected_key,
        )

    async def _talk(
        self,
        session: PeerSession,
        connection: MessageConnection,
        *,
        is_inbound: bool = False,
        is_ready: anyio.Event | None = None,
    ) -> None:
        def on_ready() -> None:
            self._add(session, is_inbound=is_inbound)
            connection.known()
            self._on_ready(session)
            if is_ready is not None:
                is_ready.set()

        try:
            await session.run(on_ready, partial(self._on_message, session))
        finally:
            self._sessions.pop(session, None)
            self._on_gone(session)

    def _add(self, session: PeerSession, *, is_inbound: bool) -> None:
        if session.peer_key == self._own.public_key:
            raise RemoteProtocolError("a peer is this node itself")
        if self.standing.is_avoided(session.peer_key):
            raise RemoteProtocolError("a peer is avoided because it lied")
        session.send(self._announcement())
        self._sessions[session] = is_inbound
        if session.place:
            self._places[session.peer_key] = session.place
        _logger.info("a peer is connected", extra={"peer": node_id(session.peer_key)})
        self._arrivals.tell()

    def _announcement(self) -> bytes:
        """The peers that can be dialled."""
        peers = {s.peer_key: s.uris for s in self._sessions if s.uris}
        infos = tuple(
            PeerInfo(public_key=key, is_connected=True, uris=uris) for key, uris in peers.items()
        )
        message = AnnouncePeers(peers=infos[:_MAX_ANNOUNCED])
        return sign_message(self._own.key, message, self._own.crypto).encode()

    def discover(self, session: PeerSession, peers: Sequence[PeerInfo]) -> None:
        """Dial some of the peers that one names; each must prove the key that it is named by."""
        connected = {other.peer_key for other in self._sessions} | {self._own.public_key}
        for info in peers:
            if self._num_discovered >= self._limits.max_discovered:
                return
            url = self._dialable(info.uris)
            if info.public_key in connected or url is None or url in self._dialled:
                continue
            peer = PeerUrl(url, info.public_key)
            try:
                self._found_in.send_nowait(peer)
            except anyio.ClosedResourceError:
                return  # this node is closing
            self._dialled[url] = peer
            self._num_discovered += 1

    def _dialable(self, uris: Sequence[str]) -> str | None:
        for uri in uris:
            try:
                url = parse_strangers_url(parse_peer_url(uri).url, WEBSOCKET_SCHEMES)
            except (ConfigError, AddressRefused):
                continue
            if self._reach.may_be_reached(url.host):
                return str(url)
        return None

    def is_own_place(self, public_key: bytes, url: str) -> bool:
        """Whether a node of the settings names its own door, where the settings have it."""
        place = self._places.get(public_key)
        return place is not None and place == http_origin(url)
