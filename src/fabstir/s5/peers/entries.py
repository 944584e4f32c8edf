"""Registry entries of peers: what they ask, what they tell, and what this node asks them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import anyio

from fabstir.primitives.errors import PortalUnavailable, StorageError, WriteConflict
from fabstir.primitives.rates import TokenBucket
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.formats.wire import Absent, Refused, RegistryQuery, Trace
from fabstir.s5.peers.announcing import Announcements
from fabstir.s5.peers.blobs import on_silent
from fabstir.s5.peers.limits import PeerLimits
from fabstir.s5.peers.network import Network
from fabstir.s5.peers.relaying import Relaying, say_absent
from fabstir.s5.peers.search import Searches
from fabstir.s5.peers.session import PeerSession
from fabstir.s5.ports import EntryRegistry

_logger = logging.getLogger(__name__)

PEERS = "S5 peers"
"""What errors call all peers together."""

_MAX_ADDRESSES = 4096
"""Remote addresses whose new keys are counted; 200 bytes each."""


class PeerEntries:
    """The registry between this node and its peers.

    Args:
        entries: this node's own.
    """

    def __init__(
        self,
        network: Network,
        relaying: Relaying,
        announcements: Announcements,
        *,
        entries: EntryRegistry,
        limits: PeerLimits,
        monotonic: Callable[[], float],
        new_id: Callable[[], bytes],
    ) -> None:
        self._network = network
        self._relaying = relaying
        self._announcements = announcements
        self._entries = entries
        self._limits = limits
        self._monotonic = monotonic
        self._new_keys: OrderedDict[str, TokenBucket] = OrderedDict()
        self._fresh: OrderedDict[bytes, float] = OrderedDict()
        self.searches = Searches[bytes, SignedEntry](
            limits.max_searches, limits.max_locations, on_silent=on_silent, new_id=new_id
        )

    async def ask(self, public_key: bytes) -> SignedEntry | None:
        """The newest entry of a key that peers have, verified; None: nobody has one."""
        query = RegistryQuery(public_key=public_key)
        until = anyio.current_time() + self._limits.query_deadline
        send = partial(self._relaying.ask, query)
        async with self.searches.ask(public_key, send) as search:
            found = await search.collect(until, self._limits.settle)
        return max(found, key=lambda entry: entry.revision, default=None)

    async def answer(self, session: PeerSession, query: RegistryQuery) -> None:
        """Say what this node has. For who has only this node to ask, the others are asked first."""
        ours = await self._own(query.public_key)
        may_ask = ours is None or (query.trace is None and not self._is_fresh(query.public_key))
        trace = self._relaying.trace(query, session) if may_ask else None
        if trace is None and not self._announcements.is_held(ours):
            self._say(session, query, ours)
        else:
            await session.beside(partial(self._find, session, query, ours, trace))

    async def _find(
        self,
        session: PeerSession,
        query: RegistryQuery,
        ours: SignedEntry | None,
        trace: Trace | None,
    ) -> None:
        newest = ours
        if trace is not None:
            theirs = await self._pass_on(session, query, trace, is_known=ours is not None)
            if theirs is not None and theirs.is_newer(ours):
                newest = theirs
            if ours is not None:
                await self._refresh(ours, newest)
        # Our own nodes tell an entry from its blob; others may take a directory for empty.
        if newest is not None and not session.relays:
            newest = newest if await self._announcements.may_be_told(newest) else None
        self._say(session, query, newest)

    def _say(self, session: PeerSession, query: RegistryQuery, entry: SignedEntry | None) -> None:
        if entry is None:
            say_absent(session, encode_multikey(query.public_key), query.trace)
        else:
            session.send(entry.encode())

    async def _pass_on(
        self, session: PeerSession, query: RegistryQuery, trace: Trace, *, is_known: bool
    ) -> SignedEntry | None:
        until = self._relaying.deadline(trace)
        if is_known:
            until = min(until, anyio.current_time() + self._limits.relay_known)
        passed_on = self._relaying.search(self.searches, query.public_key, query, trace, session)
        async with passed_on as search:
            found = await search.collect(until, self._limits.settle)
        return max(found, key=lambda entry: entry.revision, default=None)

    async def _refresh(self, ours: SignedEntry, newest: SignedEntry | None) -> None:
        """Keep what is newer than ours: it takes no more room."""
        self._fresh[ours.public_key] = self._monotonic() + self._limits.fresh
        self._fresh.move_to_end(ours.public_key)
        if len(self._fresh) > self._limits.max_unsettled:
            self._fresh.popitem(last=False)
        if newest is not None and newest is not ours:
            await self._keep(newest)

    def _is_fresh(self, public_key: bytes) -> bool:
        return self._fresh.get(public_key, 0.0) > self._monotonic()

    async def take(self, session: PeerSession, entry: SignedEntry) -> None:
        """What a peer answers, or tells unasked."""
        session.has_answered()
        is_wanted = self.searches.is_ours(entry.public_key)
        self.searches.answer(entry.public_key, session, entry)
        known = await self._own(entry.public_key)
        if known == entry:
            return
        if known is not None and known.revision > entry.revision:
            session.tell(known.public_key, known.encode())
            return
        if known is None and not is_wanted:
            await anyio.sleep(self._bucket(session.address).take(1))
        refusal = await self._keep(entry)
        if refusal is None:
            self._announcements.announce(entry, but=session.peer_key)
        elif session.relays:
            session.send(Refused(public_key=entry.public_key, reason=refusal).encode())

    def take_absent(self, session: PeerSession, message: Absent) -> None:
        """A peer has none."""
        session.has_answered()
        self.searches.answer(message.subject[1:], session, None, message.trace_id)

    def take_refusal(self, session: PeerSession, message: Refused) -> None:
        """A peer does not keep what it was told."""
        _logger.warning(
            "a peer does not keep a registry entry",
            extra={
                "peer": session.url,
                "key": message.public_key.hex(),
                "reason": message.reason,
            },
        )

    def _bucket(self, address: str) -> TokenBucket:
        limits = self._limits
        bucket = self._new_keys.get(address)
        if bucket is None:
            bucket = self._new_keys[address] = TokenBucket(
                limits.new_keys_per_second, limits.burst_new_keys, self._monotonic
            )
        self._new_keys.move_to_end(address)
        if len(self._new_keys) > _MAX_ADDRESSES:
            self._new_keys.popitem(last=False)
        return bucket

    async def _keep(self, entry: SignedEntry) -> str | None:
        """Returns why it is not kept; a fork too: the registry keeps both as evidence."""
        try:
            await self._entries.set(entry)
        except WriteConflict as error:
            _logger.info("a peer's entry is not kept", extra={"reason": str(error)})
            return str(error)
        except StorageError as error:
            _logger.warning("a peer's entry is not kept", extra={"reason": str(error)})
            return str(error)
        return None

    async def _own(self, public_key: bytes) -> SignedEntry | None:
        try:
            return await self._entries.get(public_key)
        except StorageError:
            _logger.warning("the registry cannot be read", exc_info=True)
            return None


class PeersRegistry:
    """`ports.EntryRegistry` of all peers together; what they keep is theirs."""

    def __init__(
        self, network: Network, entries: PeerEntries, announcements: Announcements
    ) -> None:
        self._network = network
        self._entries = entries
        self._announcements = announcements

    async def get(self, public_key: bytes) -> SignedEntry | None:
        """See `ports.EntryRegistry`: the newest that a connected peer has.

        Raises:
            PortalUnavailable: none is connected, or of those that the settings name none is, and
                no stranger has the entry.
        """
        if not self._network.sessions:
            raise PortalUnavailable(PEERS, "none is connected")
        entry = await self._entries.ask(public_key)
        if entry is None and not self._network.is_where_it_should_be:
            raise PortalUnavailable(PEERS, "of those that the settings name none is connected")
        return entry

    async def set(self, entry: SignedEntry) -> None:
        """Tell all connected peers; nobody acknowledges.

        Raises:
            PortalUnavailable: no peer is connected.
        """
        if not self._network.sessions:
            raise PortalUnavailable(PEERS, "none takes a registry entry")
        self._announcements.announce(entry)
