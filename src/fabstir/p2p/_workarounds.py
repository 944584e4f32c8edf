"""What libp2p 0.8.1 gets wrong for us. One function a bug, each with a test in
tests/integration/p2p/test_workarounds.py, so that they can be deleted one by one.

Only here are private names of the library touched; libp2p is pinned exactly for that.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import libp2p.kad_dht.value_store as libp2p_values
import libp2p.network.swarm as libp2p_swarm
import trio
from libp2p.abc import INetConn, INetStream
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TMuxerOptions, TProtocol, TSecurityOptions
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.common import PROTOCOL_ID as KAD_PROTOCOL
from libp2p.kad_dht.kad_dht import KadDHT
from libp2p.network.config import RetryConfig
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStoreError
from libp2p.rcmgr import Direction
from libp2p.rcmgr.exceptions import ResourceManagerException
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from fabstir.p2p._nursery import start_in
from fabstir.p2p.limits import (
    ADDRESS_TTL,
    CLOSE_TIMEOUT,
    DIAL_TIMEOUT,
    MAX_OUTBOUND,
    MAX_STORED_RECORDS,
    STREAM_TIMEOUT,
)
from fabstir.primitives.errors import ConfigError, PeerUnreachable

DIAL_DELAY: Final = 0.01

LIBRARY_ERRORS: Final = (
    BaseLibp2pError,
    ResourceManagerException,
    OSError,
    TimeoutError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    # A peer's bytes reach all of the library: its bugs must cost that peer the connection, not us
    # the node.
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    ExceptionGroup,
)
"""What a dial or a stream may fail with, whatever the peer does."""


def shorten_dial_delay() -> None:
    """Every dial waits out the whole 250 ms head start of the first address, even after success.

    Measured: 251 ms a dial; 14 ms with this.
    """
    assert hasattr(libp2p_swarm, "_HAPPY_EYEBALLS_DELAY"), "libp2p renamed the dial delay"
    libp2p_swarm._HAPPY_EYEBALLS_DELAY = DIAL_DELAY  # pyright: ignore[reportPrivateUsage] - there is no setting


def bound_value_store() -> None:
    """The store of a server takes 50,000 values, which strangers could fill with 8 KiB each, and
    once it is full it parses the time of every value for each new one."""
    assert hasattr(libp2p_values, "MAX_VALUE_STORE_SIZE"), "libp2p renamed the store's bound"
    libp2p_values.MAX_VALUE_STORE_SIZE = MAX_STORED_RECORDS  # pyright: ignore[reportPrivateImportUsage] - the name that the store reads


def noise_only(key_pair: KeyPair) -> TSecurityOptions:
    """Without sec_opt a host accepts /plaintext/2.0.0, so anyone could be any peer."""
    noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
    return {NOISE_PROTOCOL: noise}


def yamux_only() -> TMuxerOptions:
    """The default also offers mplex, which has no flow control and is deprecated."""
    return {TProtocol(YAMUX_PROTOCOL): Yamux}


def strict_validators(validators: dict[str, Validator]) -> NamespacedValidator:
    """By default keys without a namespace are stored without any check."""
    return NamespacedValidator(validators, strict_validation=True)


def ensure_port_free(host: str, port: int, setting: str) -> None:
    """libp2p listens with SO_REUSEPORT, so a second node on a taken port starts without an error
    and the kernel deals connections out to either.

    Raises:
        ConfigError: somebody listens there, or the address is not ours.
    """
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {host} port {port} ({exc.strerror}): stop what uses it, "
                f"or change {setting} (0 takes any free port)"
            ) from exc


def ensure_listening(host: BasicHost, wanted: Sequence[Multiaddr]) -> None:
    """host.run() swallows the errors of listeners and goes on deaf.

    Raises:
        ConfigError: some address is not listened on.
    """
    if len(host.get_transport_addrs()) < len(wanted):
        text = " and ".join(str(address) for address in wanted)
        raise ConfigError(f"cannot listen on {text}: change p2p.listen, p2p.port or p2p.ws_port")


@asynccontextmanager
async def closing(
    host: BasicHost, abort_all: Callable[[], None] | None = None
) -> AsyncGenerator[None]:
    """Leaving host.run() alone keeps connections open: peers listed us 6 s later (measured). And
    host.close() takes 0.2 s for each connection, one after the other: close them together first.

    Args:
        abort_all: cuts those that could not be closed in CLOSE_TIMEOUT.
    """
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(CLOSE_TIMEOUT):
                async with anyio.create_task_group() as tasks:
                    for connection in swarm_of(host).get_connections():
                        tasks.start_soon(_close_connection, connection)
            if abort_all is not None:
                abort_all()
            await host.close()


async def _close_connection(connection: INetConn) -> None:
    with suppress(*LIBRARY_ERRORS):  # the peer may have closed it first
        await connection.close()


async def dial(host: BasicHost, peer: PeerInfo, timeout: float = DIAL_TIMEOUT) -> None:
    """Connect by one address after the other.

    host.connect() tries one TCP address of the peer, for a peer that moved perhaps the old one,
    four times over; after a failure it refuses to try again for a minute, and it has no time limit
    of its own.

    Raises:
        PeerUnreachable: no address answered in `timeout` seconds.
    """
    if host.is_peer_connected(peer.peer_id):
        return
    store, errors = host.get_peerstore(), list[str]()
    swarm_of(host).retry_config = RetryConfig(max_retries=0)
    for address in peer.addrs:
        store.clear_addrs(peer.peer_id)
        swarm_of(host).unblock_peer(peer.peer_id)
        try:
            with anyio.fail_after(timeout / len(peer.addrs)):
                await host.connect(PeerInfo(peer.peer_id, [address]))
        except LIBRARY_ERRORS as exc:
            errors.append(f"{address}: {exc or 'no answer'}")
        else:
            break
    store.add_addrs(peer.peer_id, peer.addrs, ADDRESS_TTL)
    _bound_outbound(host)
    if not host.is_peer_connected(peer.peer_id):
        tried = "; ".join(errors) or "no address is known"
        raise PeerUnreachable(f"peer {peer.peer_id} does not answer ({tried}): is it running?")


def _bound_outbound(host: BasicHost) -> None:
    """Lookups leave their connections open, to anybody that an answer named: close the oldest on
    which nothing happens when there are too many."""
    swarm = swarm_of(host)
    dialled = [
        each
        for each in swarm.get_connections()
        if isinstance(each, SwarmConn) and each.direction == Direction.OUTBOUND
    ]
    idle = [each for each in dialled[:-1] if not each.get_streams()]
    for connection in idle[: max(0, len(dialled) - MAX_OUTBOUND)]:
        swarm.remove_conn(connection)
        assert swarm.background_nursery is not None
        start_in(swarm.background_nursery, _close_connection, connection)


async def open_stream(
    host: BasicHost, peer_id: ID, protocol: TProtocol, timeout: float = STREAM_TIMEOUT
) -> INetStream:
    """Over the stream limit new_stream() hangs instead of failing.

    Raises:
        PeerUnreachable: the peer refused the protocol or did not answer in `timeout` seconds.
    """
    try:
        with anyio.fail_after(timeout):
            return await host.new_stream(peer_id, [protocol])
    except LIBRARY_ERRORS as exc:
        raise PeerUnreachable(f"peer {peer_id} opens no {protocol} stream: {exc}") from exc


def learn_servers_only(host: BasicHost, dht: KadDHT, on_learned: Callable[[], None]) -> None:
    """The routing table gets peers that serve no DHT (clients that asked, addresses that never
    answered) and misses those that do: nothing is added after a dial, and a peer that asks before
    identify is done has no known address. So identify first, then add if it offers the protocol.

    Args:
        on_learned: called after each peer that was added.
    """
    assert hasattr(host, "_identify_peer"), "libp2p renamed identify"
    add_peer = dht.routing_table.add_peer

    async def add_server(peer_obj: PeerInfo | ID, *, skip_server_mode_check: bool = False) -> bool:
        del skip_server_mode_check
        peer_id = peer_obj.peer_id if isinstance(peer_obj, PeerInfo) else peer_obj
        if KAD_PROTOCOL not in _protocols(host, peer_id):
            with anyio.move_on_after(STREAM_TIMEOUT):
                await host._identify_peer(peer_id, reason="dht")  # pyright: ignore[reportPrivateUsage] - no public call
        is_server = KAD_PROTOCOL in _protocols(host, peer_id)
        is_added = is_server and await add_peer(peer_obj)
        if is_added:
            on_learned()
        return is_added

    dht.routing_table.add_peer = add_server


def distinct_providers(providers: Iterable[PeerInfo]) -> list[PeerInfo]:
    """The same provider comes once from each peer that was asked; its addresses are joined."""
    merged: dict[ID, dict[Multiaddr, None]] = {}
    for provider in providers:
        merged.setdefault(provider.peer_id, {}).update(dict.fromkeys(provider.addrs))
    return [PeerInfo(peer_id, list(addresses)) for peer_id, addresses in merged.items()]


def _protocols(host: BasicHost, peer_id: ID) -> list[str]:
    try:
        return host.get_peerstore().get_protocols(peer_id)
    except PeerStoreError:
        return []


def swarm_of(host: BasicHost) -> Swarm:
    network = host.get_network()
    assert isinstance(network, Swarm)
    return network


async def stop_auto_dialling(host: BasicHost) -> None:
    """The library dials every peer it ever heard of, every 30 s, up to the mean of its two
    watermarks; no setting turns that off. The DHT dials whom it needs."""
    await swarm_of(host).auto_connector.stop()
