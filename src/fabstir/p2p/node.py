"""The libp2p node as the rest of the program sees it: plain async calls from asyncio."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from fabstir.p2p._bridge import Bridge, open_bridge
from fabstir.p2p._core import P2PCore, P2PStats, Provider, open_core
from fabstir.p2p._selfcheck import InboundStatus
from fabstir.p2p.config import P2PConfig
from fabstir.p2p.limits import FIND_TIMEOUT, PING_TIMEOUT, PUBLISH_TIMEOUT
from fabstir.primitives.ids import ModelId, PeerId
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.host_record import HostRecord

_BRIDGE_TIMEOUT = 5.0
"""Seconds for what needs no network. Also the margin by which a lookup ends before its caller
gives up, so that what it has found by then is returned."""


class P2PNode:
    """A running libp2p node. All calls may be made from the asyncio task that opened it, or any
    other task of its loop.

    Attributes:
        peer_id: ours, derived from the key in identity_path.
        addresses: dialable multiaddrs of this node, each ending in /p2p/<peer id>.
    """

    def __init__(
        self, bridge: Bridge[P2PCore], peer_id: PeerId, addresses: tuple[str, ...]
    ) -> None:
        self._bridge = bridge
        self.peer_id = peer_id
        self.addresses = addresses

    async def wait_for_peers(self, *, timeout: float = FIND_TIMEOUT) -> None:
        """Return once another DHT server is known: before that, lookups find nothing.

        Raises:
            TimeoutError: none in `timeout` seconds.
        """
        await self._bridge.call(P2PCore.wait_for_peers, timeout=timeout)

    async def provide(self, model_id: ModelId, *, timeout: float = PUBLISH_TIMEOUT) -> int:
        """Tell the network that this node serves a model.

        Returns:
            How many peers keep the record now; 0 if there are no peers yet.
        """
        return await self._bridge.call(
            lambda core: core.provide(model_id, timeout), timeout=timeout + _BRIDGE_TIMEOUT
        )

    async def find_providers(
        self, model_id: ModelId, *, timeout: float = FIND_TIMEOUT
    ) -> tuple[Provider, ...]:
        """Who says that it serves a model, each peer once, ourselves not.

        At most 100, as a fair sample: every peer that was asked has its turn, and of what it named
        every network address; so that nobody is crowded out by peer ids made in a second. Empty if
        nobody is found in time.
        """
        return await self._bridge.call(
            lambda core: core.find_providers(model_id, timeout), timeout=timeout + _BRIDGE_TIMEOUT
        )

    async def put_host_record(self, encoded: bytes, *, timeout: float = PUBLISH_TIMEOUT) -> int:
        """Publish our record, as made by `HostRecord.encode_signed`, under our peer id.

        Returns:
            How many peers keep the record now; 0 if there are no peers yet.

        Raises:
            HostRecordInvalid: nobody would accept it: too long, expired, or of another peer.
        """
        return await self._bridge.call(
            lambda core: core.put_host_record(encoded, timeout), timeout=timeout + _BRIDGE_TIMEOUT
        )

    async def get_host_record(
        self, peer_id: PeerId, *, timeout: float = FIND_TIMEOUT, addresses: Sequence[str] = ()
    ) -> HostRecord:
        """The newest valid record of a host, from itself if it answers, else from the DHT.

        The registry on chain is the caller's to check.

        Args:
            addresses: multiaddrs to try as well, for a host of which the DHT knows none.

        Raises:
            HostRecordInvalid: all that was found is forged or expired; the text says which.
            HostRecordMissing: nothing was found.
        """
        return await self._bridge.call(
            lambda core: core.get_host_record(peer_id, timeout, addresses),
            timeout=timeout + _BRIDGE_TIMEOUT,
        )

    async def ping(self, target: PeerId | str, *, timeout: float = PING_TIMEOUT) -> float:
        """Seconds of one round trip on an open stream; connects first if need be.

        Args:
            target: a peer id, or a multiaddr that ends in /p2p/<peer id>.

        Raises:
            PeerUnreachable: it did not answer.
        """
        return await self._bridge.call(lambda core: core.ping(target), timeout=timeout)

    async def stats(self) -> P2PStats:
        """Counts for status and metrics."""

        async def read(core: P2PCore) -> P2PStats:
            return core.stats()

        return await self._bridge.call(read, timeout=_BRIDGE_TIMEOUT)

    async def inbound(self, *, timeout: float = _BRIDGE_TIMEOUT) -> InboundStatus:
        """Whether peers get in, as the node's own check saw it last.

        Raises:
            TimeoutError: the libp2p thread does not answer.
        """

        async def read(core: P2PCore) -> InboundStatus:
            return core.inbound()

        return await self._bridge.call(read, timeout=timeout)


@asynccontextmanager
async def open_p2p(
    config: P2PConfig, crypto: Crypto, *, clock: Callable[[], float] = time.time
) -> AsyncGenerator[P2PNode]:
    """Run a libp2p node on a thread of its own for the length of the block.

    Bootstrap peers are dialled in the background, again and again until they answer.

    Args:
        clock: Unix time in seconds; decides when host records have expired.

    Raises:
        ConfigError: a port is taken or an address is malformed; the text names the setting.
        KeystoreError: the key file cannot be used.
        ExceptionGroup: holds the error with which the node failed later.
    """
    async with open_bridge(lambda: open_core(config, crypto, clock)) as bridge:

        async def identify(core: P2PCore) -> tuple[PeerId, tuple[str, ...]]:
            return core.peer_id, core.addresses

        peer_id, addresses = await bridge.call(identify, timeout=_BRIDGE_TIMEOUT)
        yield P2PNode(bridge, peer_id, addresses)
