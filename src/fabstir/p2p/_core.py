"""The libp2p host and its DHT, on the trio thread."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from libp2p import new_host
from libp2p.crypto.keys import KeyPair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING_PROTOCOL
from libp2p.io.utils import read_exactly
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.record import make_signed_put_record
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from fabstir.p2p import _workarounds as workarounds
from fabstir.p2p._addresses import (
    advertised_addresses,
    listen_addresses,
    parse_addresses,
    parse_peer,
)
from fabstir.p2p._guard import guard_dials
from fabstir.p2p._identity import load_or_create_identity
from fabstir.p2p._kad import DhtClient, known_addresses
from fabstir.p2p.config import P2PConfig
from fabstir.p2p.limits import (
    ADDRESS_TTL,
    BOOTSTRAP_CHECK,
    BOOTSTRAP_FIRST_RETRY,
    BOOTSTRAP_MAX_RETRY,
    DIAL_TIMEOUT,
    HOST_HEAD_START,
    MAX_PROVIDERS,
    STREAM_TIMEOUT,
)
from fabstir.p2p.records import (
    NAMESPACE,
    HostRecordValidator,
    host_record_key,
    open_host_record,
    seal_host_record,
)
from fabstir.primitives.cid import model_cid
from fabstir.primitives.errors import HostRecordInvalid, HostRecordMissing, PeerUnreachable
from fabstir.primitives.ids import ModelId, PeerId
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.host_record import HostRecord

logger = logging.getLogger(__name__)

_PING_BYTES = 32
_CID_HEADER_BYTES = 2
_MAX_PEER_ID_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A peer that says it serves a model.

    Attributes:
        addresses: multiaddrs that end in /p2p/<peer id>; the peer's own claim.
    """

    peer_id: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class P2PStats:
    """Counts for status and metrics."""

    num_connected_peers: int
    num_routing_peers: int
    """DHT servers that this node would ask first."""


class P2PCore:
    """What the node can do; every method runs on the trio thread."""

    def __init__(
        self,
        host: BasicHost,
        dht: KadDHT,
        crypto: Crypto,
        clock: Callable[[], float],
        named: set[Multiaddr],
    ) -> None:
        self.host = host
        self.dht = dht
        self.client = DhtClient(host, dht)
        self._crypto = crypto
        self._clock = clock
        self._named = named
        self._learned = anyio.Event()
        workarounds.learn_servers_only(host, dht, self._on_learned)

    @property
    def peer_id(self) -> PeerId:
        return PeerId(self.host.get_id().to_base58())

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(str(address) for address in self.host.get_addrs())

    def stats(self) -> P2PStats:
        return P2PStats(
            num_connected_peers=len(self.host.get_connected_peers()),
            num_routing_peers=self.dht.get_routing_table_size(),
        )

    def _on_learned(self) -> None:
        self._learned.set()

    async def wait_for_peers(self) -> None:
        while self.dht.get_routing_table_size() == 0:
            self._learned = anyio.Event()
            await self._learned.wait()

    async def provide(self, model_id: ModelId, budget: float) -> int:
        key = _model_key(model_id)
        own = PeerInfo(self.host.get_id(), self.host.get_addrs())
        self.dht.provider_store.add_provider(key, own)
        record = Message(type=Message.ADD_PROVIDER, key=key)
        record.providerPeers.add(
            id=own.peer_id.to_bytes(), addrs=[address.to_bytes() for address in own.addrs]
        )
        return await self._publish(Message(type=Message.GET_PROVIDERS, key=key), record, budget)

    async def find_providers(self, model_id: ModelId, budget: float) -> tuple[Provider, ...]:
        key = _model_key(model_id)
        found = self.dht.provider_store.get_providers(key)

        def collect(_peer_id: ID, answer: Message) -> None:
            for peer in answer.providerPeers[:MAX_PROVIDERS]:
                if 0 < len(peer.id) <= _MAX_PEER_ID_BYTES:
                    found.append(PeerInfo(ID(peer.id), parse_addresses(peer.addrs)))

        request = Message(type=Message.GET_PROVIDERS, key=key)
        await self.client.walk(request, collect, budget=budget)
        others = [
            PeerInfo(peer.peer_id, parse_addresses(each.to_bytes() for each in peer.addrs))
            for peer in workarounds.distinct_providers(found)
            if peer.peer_id != self.host.get_id()
        ][:MAX_PROVIDERS]
        for peer in others:
            self.host.get_peerstore().add_addrs(peer.peer_id, peer.addrs, ADDRESS_TTL)
        return tuple(_provider(peer) for peer in others)

    async def put_host_record(self, encoded: bytes, budget: float) -> int:
        value = seal_host_record(encoded, self.host.get_private_key())
        open_host_record(self.peer_id, value, self._crypto, self._clock())
        key = host_record_key(self.peer_id).encode()
        record = make_signed_put_record(key, value, self.host.get_private_key())
        self.dht.value_store.put_record(key, record)
        message = Message(type=Message.PUT_VALUE, key=key, record=record)
        return await self._publish(Message(type=Message.GET_VALUE, key=key), message, budget)

    async def _publish(self, question: Message, record: Message, budget: float) -> int:
        """Give a record to the peers nearest to its key. Returns how many took it."""
        nearest = await self.client.walk(question, _ignore, budget=budget / 2)
        took: list[bool] = []

        async def tell(peer_id: ID) -> None:
            took.append(await self.client.tell(peer_id, record))

        async with anyio.create_task_group() as tasks:
            for peer_id in nearest:
                tasks.start_soon(tell, peer_id)
        return sum(took)

    async def get_host_record(self, peer_id: PeerId, budget: float) -> HostRecord:
        key = host_record_key(peer_id).encode()
        request = Message(type=Message.GET_VALUE, key=key)
        offers = _Offers(peer_id, self._crypto, self._clock)
        local = self.dht.value_store.get(key)
        if local is not None:
            offers.add(local.value)
        if peer_id == self.peer_id:
            return offers.best()
        host, answered = _parse_peer_id(peer_id), anyio.Event()

        async def ask_host() -> None:
            try:
                answer = await self.client.ask(host, request)
            except PeerUnreachable as exc:
                logger.debug("a host does not answer for itself", extra={"cause": str(exc)})
            else:
                if offers.add(answer.record.value):
                    tasks.cancel_scope.cancel()
            answered.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask_host)
            with anyio.move_on_after(HOST_HEAD_START):
                await answered.wait()
            await self.client.walk(
                request, lambda _, answer: offers.add(answer.record.value), budget=budget
            )
            if not offers.has_valid:
                await answered.wait()
            tasks.cancel_scope.cancel()
        return offers.best()

    async def ping(self, target: str) -> float:
        peer = await self._resolve(target)
        await workarounds.dial(self.host, peer, DIAL_TIMEOUT)
        stream = await workarounds.open_stream(self.host, peer.peer_id, TProtocol(PING_PROTOCOL))
        payload = secrets.token_bytes(_PING_BYTES)
        try:
            with anyio.fail_after(STREAM_TIMEOUT):
                started = anyio.current_time()
                await stream.write(payload)
                echo = await read_exactly(stream, _PING_BYTES)
                elapsed = anyio.current_time() - started
        except workarounds.LIBRARY_ERRORS as exc:
            raise PeerUnreachable(f"peer {peer.peer_id} does not answer a ping: {exc}") from exc
        finally:
            with anyio.CancelScope(shield=True):
                await stream.reset()
        if echo != payload:
            raise PeerUnreachable(f"peer {peer.peer_id} answers pings with other bytes")
        return elapsed

    async def _resolve(self, target: str) -> PeerInfo:
        if target.startswith("/"):
            peer = parse_peer(target, "ping")
            self._named.update(peer.addrs)
            return peer
        peer_id = _parse_peer_id(target)
        addresses = known_addresses(self.host, peer_id)
        if not addresses:
            await self.dht.find_peer(peer_id)
            addresses = known_addresses(self.host, peer_id)
        return PeerInfo(peer_id, addresses)

    async def keep_connected(self, peer: PeerInfo) -> None:
        """Stay connected to one bootstrap peer; it may come, go and come back."""
        wait = BOOTSTRAP_FIRST_RETRY
        while True:
            if self.host.is_peer_connected(peer.peer_id):
                wait = BOOTSTRAP_FIRST_RETRY
                await anyio.sleep(BOOTSTRAP_CHECK)
                continue
            try:
                await workarounds.dial(self.host, peer, DIAL_TIMEOUT)
                await self._join(peer.peer_id)
            except PeerUnreachable as exc:
                logger.warning(
                    "bootstrap peer unreachable, will try again",
                    extra={"peer_id": peer.peer_id.to_base58(), "cause": str(exc), "retry_s": wait},
                )
                await anyio.sleep(wait)
                wait = min(wait * 2, BOOTSTRAP_MAX_RETRY)

    async def _join(self, peer_id: ID) -> None:
        """libp2p's routing table stays empty after a dial: ask the peer for our neighbours."""
        request = Message(type=Message.FIND_NODE, key=self.host.get_id().to_bytes())
        await self.dht.add_peer(peer_id)
        await self.client.walk(request, _ignore, budget=DIAL_TIMEOUT)


class _Offers:
    """The records of one host that were found, good and bad."""

    def __init__(self, peer_id: PeerId, crypto: Crypto, clock: Callable[[], float]) -> None:
        self._peer_id = peer_id
        self._crypto = crypto
        self._clock = clock
        self._valid: list[HostRecord] = []
        self._invalid: list[HostRecordInvalid] = []

    def add(self, value: bytes) -> bool:
        """Returns whether it is valid; an empty value is no offer."""
        if not value:
            return False
        try:
            self._valid.append(open_host_record(self._peer_id, value, self._crypto, self._clock()))
        except HostRecordInvalid as exc:
            self._invalid.append(exc)
            return False
        return True

    @property
    def has_valid(self) -> bool:
        return bool(self._valid)

    def best(self) -> HostRecord:
        if self._valid:
            return max(self._valid, key=lambda record: record.sequence)
        if self._invalid:
            raise self._invalid[0]
        raise HostRecordMissing(
            f"nobody knows a record of host {self._peer_id}: it is not serving, or this node has "
            "not joined the host's network (p2p.bootstrap)"
        )


def _ignore(_peer_id: ID, _answer: Message) -> None:
    return


def _parse_peer_id(text: str) -> ID:
    try:
        return ID.from_base58(text)
    except ValueError as exc:
        raise PeerUnreachable(f"{text!r} is not a peer id") from exc


def _model_key(model_id: ModelId) -> bytes:
    """The multihash in the model's CID: what libp2p uses as the key of provider records."""
    return model_cid(model_id)[_CID_HEADER_BYTES:]


def _provider(peer: PeerInfo) -> Provider:
    peer_id = peer.peer_id.to_base58()
    return Provider(
        peer_id=PeerId(peer_id),
        addresses=tuple(f"{address}/p2p/{peer_id}" for address in peer.addrs),
    )


def _make_host(key_pair: KeyPair, advertised: list[Multiaddr], *, has_websocket: bool) -> BasicHost:
    """Make the host; it runs later.

    Args:
        advertised: filled in once the ports are known.
        has_websocket: for browsers only: libp2p's own WebSocket client now and then leaves its
            socket open, and every node of ours listens on TCP.
    """
    host = new_host(
        key_pair=key_pair,
        sec_opt=workarounds.noise_only(key_pair),
        muxer_opt=workarounds.yamux_only(),
        connection_config=_CONNECTIONS,
        addrs_factory=lambda _: advertised,
        disable_identify_address_discovery=True,
        enable_websocket=has_websocket,
    )
    assert isinstance(host, BasicHost)
    return host


_CONNECTIONS = ConnectionConfig(
    # Measured: a node with 29 connections takes 1.8 MB, so 200 take about 12 MB.
    max_connections=200,
    high_watermark=160,
    low_watermark=0,
    min_connections=0,
    max_connections_per_peer=2,
    dial_timeout=DIAL_TIMEOUT,
    outbound_stream_protocol_negotiation_timeout=STREAM_TIMEOUT,
    inbound_stream_protocol_negotiation_timeout=STREAM_TIMEOUT,
)


@asynccontextmanager
async def open_core(
    config: P2PConfig, crypto: Crypto, clock: Callable[[], float]
) -> AsyncGenerator[P2PCore]:
    """Run host and DHT for the length of the block, on trio. See `open_p2p`."""
    key_pair = load_or_create_identity(config.identity_path)
    bootstrap = [parse_peer(address, "p2p.bootstrap") for address in config.bootstrap]
    wanted = listen_addresses(config)
    advertised: list[Multiaddr] = []
    workarounds.ensure_port_free(config.listen_host, config.tcp_port, "p2p.port")
    if config.ws_port is not None:
        workarounds.ensure_port_free(config.listen_host, config.ws_port, "p2p.ws_port")
    workarounds.shorten_dial_delay()
    workarounds.bound_value_store()
    host = _make_host(key_pair, advertised, has_websocket=config.ws_port is not None)
    dht = KadDHT(
        host,
        DHTMode.SERVER if config.dht_mode == "server" else DHTMode.CLIENT,
        validator=workarounds.strict_validators({NAMESPACE: HostRecordValidator(crypto, clock)}),
        validator_changed=True,
        strict_validation=True,
    )
    named = {address for peer in bootstrap for address in peer.addrs}
    guard_dials(host, config.reach, named)
    core = P2PCore(host, dht, crypto, clock, named)
    async with host.run(wanted), workarounds.closing(host):
        workarounds.ensure_listening(host, wanted)
        await workarounds.stop_auto_dialling(host)
        advertised += advertised_addresses(host.get_transport_addrs(), config.announce)
        async with background_trio_service(dht), anyio.create_task_group() as tasks:
            for peer in bootstrap:
                if peer.peer_id != host.get_id():  # hosts of one network share one list
                    tasks.start_soon(core.keep_connected, peer)
            yield core
            tasks.cancel_scope.cancel()
