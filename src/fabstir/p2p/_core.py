"""The libp2p host and its DHT, on the trio thread."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
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

from fabstir.p2p import _serving as serving
from fabstir.p2p import _workarounds as workarounds
from fabstir.p2p._addresses import (
    advertised_addresses,
    listen_addresses,
    parse_peer,
    parse_texts,
)
from fabstir.p2p._admission import ConnectionLimits
from fabstir.p2p._guard import guard_dials
from fabstir.p2p._identity import load_or_create_identity
from fabstir.p2p._kad import DhtClient, known_addresses
from fabstir.p2p._providers import ProviderSample, group_of_addresses
from fabstir.p2p._selfcheck import InboundStatus, SelfCheck
from fabstir.p2p._stores import BoundedPeerStore, FairProviderStore, FairValueStore
from fabstir.p2p._transport import InboundTransport, descriptor_limit
from fabstir.p2p.config import P2PConfig
from fabstir.p2p.limits import (
    ADDRESS_TTL,
    BOOTSTRAP_CHECK,
    BOOTSTRAP_FIRST_RETRY,
    BOOTSTRAP_MAX_RETRY,
    DIAL_TIMEOUT,
    HOST_HEAD_START,
    STREAM_TIMEOUT,
)
from fabstir.p2p.records import (
    NAMESPACE,
    HostRecordValidator,
    host_record_key,
    open_host_record,
    seal_host_record,
)
from fabstir.primitives.cid import model_cid, model_cid_sha256
from fabstir.primitives.errors import (
    HostRecordInvalid,
    HostRecordMissing,
    PeerError,
    PeerUnreachable,
)
from fabstir.primitives.ids import ModelId, PeerId
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.host_record import HostRecord
from fabstir.telemetry.waiting import Changes

logger = logging.getLogger(__name__)

_PING_BYTES = 32
_CID_HEADER_BYTES = 2
_NO_LIMIT = 4096


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
        transport: InboundTransport,
        crypto: Crypto,
        clock: Callable[[], float],
        named: set[Multiaddr],
    ) -> None:
        self.host = host
        self.dht = dht
        self.transport = transport
        self.client = DhtClient(host, dht)
        self.self_check = SelfCheck(host.get_id())
        self._crypto = crypto
        self._clock = clock
        self._named = named
        self._learned = Changes()
        workarounds.learn_servers_only(host, dht, self._learned.tell)

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

    def inbound(self) -> InboundStatus:
        admission, checked_at = self.transport.admission, self.self_check.checked_at
        return InboundStatus(
            problem=self.self_check.problem,
            age=None if checked_at is None else anyio.current_time() - checked_at,
            num_inbound=admission.num_inbound,
            num_pending=admission.num_pending,
            num_admitted=admission.num_admitted,
            num_evicted=admission.num_evicted,
        )

    async def wait_for_peers(self) -> None:
        while self.dht.get_routing_table_size() == 0:
            await self._learned.wait()

    async def provide(self, model_id: ModelId, budget: float) -> int:
        took = set[ID]()

        async def publish(key: bytes) -> None:
            own = PeerInfo(self.host.get_id(), self.host.get_addrs())
            self.dht.provider_store.add_provider(key, own)
            record = Message(type=Message.ADD_PROVIDER, key=key)
            record.providerPeers.add(
                id=own.peer_id.to_bytes(), addrs=[address.to_bytes() for address in own.addrs]
            )
            question = Message(type=Message.GET_PROVIDERS, key=key)
            took.update(await self._publish(question, record, budget))

        async with anyio.create_task_group() as tasks:
            for key in _model_keys(model_id):
                tasks.start_soon(publish, key)
        return len(took)

    async def find_providers(self, model_id: ModelId, budget: float) -> tuple[Provider, ...]:
        own_id = self.host.get_id()
        sample = ProviderSample(own_id, random.SystemRandom())

        async def ask(key: bytes) -> None:
            sample.add(own_id, self.dht.provider_store.get_providers(key))
            request = Message(type=Message.GET_PROVIDERS, key=key)
            await self.client.walk(request, sample.add_answer, budget=budget)

        async with anyio.create_task_group() as tasks:
            for key in _model_keys(model_id):
                tasks.start_soon(ask, key)
        chosen = sample.chosen()
        for peer in chosen:
            self.host.get_peerstore().add_addrs(peer.peer_id, peer.addrs, ADDRESS_TTL)
        return tuple(_provider(peer) for peer in chosen)

    async def put_host_record(self, encoded: bytes, budget: float) -> int:
        value = seal_host_record(encoded, self.host.get_private_key())
        open_host_record(self.peer_id, value, self._crypto, self._clock())
        key = host_record_key(self.peer_id).encode()
        record = make_signed_put_record(key, value, self.host.get_private_key())
        self.dht.value_store.put_record(key, record)
        message = Message(type=Message.PUT_VALUE, key=key, record=record)
        question = Message(type=Message.GET_VALUE, key=key)
        return len(await self._publish(question, message, budget))

    async def _publish(self, question: Message, record: Message, budget: float) -> set[ID]:
        """Give a record to the peers nearest to its key. Returns those that took it."""
        nearest = await self.client.walk(question, _ignore, budget=budget / 2)
        took = set[ID]()

        async def tell(peer_id: ID) -> None:
            if await self.client.tell(peer_id, record):
                took.add(peer_id)

        async with anyio.create_task_group() as tasks:
            for peer_id in nearest:
                tasks.start_soon(tell, peer_id)
        return took

    async def get_host_record(
        self, peer_id: PeerId, budget: float, addresses: Sequence[str] = ()
    ) -> HostRecord:
        key = host_record_key(peer_id).encode()
        request = Message(type=Message.GET_VALUE, key=key)
        offers = _Offers(peer_id, self._crypto, self._clock)
        local = self.dht.value_store.get(key)
        if local is not None:
            offers.add(local.value)
        if peer_id == self.peer_id:
            return offers.best()
        host, answered = _parse_peer_id(peer_id), anyio.Event()
        if hints := parse_texts(addresses):
            self.host.get_peerstore().add_addrs(host, hints, ADDRESS_TTL)

        async def ask_host() -> None:
            try:
                answer = await self.client.ask(host, request)
            except PeerError as exc:
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
            if self.host.is_peer_connected(peer.peer_id) and self.has_joined:
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

    @property
    def has_joined(self) -> bool:
        return self.dht.get_routing_table_size() > 0

    async def _join(self, peer_id: ID) -> None:
        """libp2p's routing table stays empty after a dial: ask the peer for our neighbours.

        Raises:
            PeerUnreachable: it serves no DHT, or not yet, as js-libp2p in its first moments.
        """
        request = Message(type=Message.FIND_NODE, key=self.host.get_id().to_bytes())
        await self.dht.routing_table.add_peer(peer_id)
        await self.client.walk(request, _ignore, budget=DIAL_TIMEOUT)
        if not self.has_joined:
            raise PeerUnreachable(f"peer {peer_id} does not say that it serves the DHT")


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


def _model_keys(model_id: ModelId) -> tuple[bytes, bytes]:
    """The multihashes in the model's CIDs, which libp2p uses as keys of provider records: ours, and
    one for servers of others, which keep sha2-256 only."""
    return model_cid(model_id)[_CID_HEADER_BYTES:], model_cid_sha256(model_id)[_CID_HEADER_BYTES:]


def _provider(peer: PeerInfo) -> Provider:
    peer_id = peer.peer_id.to_base58()
    return Provider(
        peer_id=PeerId(peer_id),
        addresses=tuple(f"{address}/p2p/{peer_id}" for address in peer.addrs),
    )


def _make_host(
    key_pair: KeyPair,
    advertised: list[Multiaddr],
    transport: InboundTransport,
    peerstore: BoundedPeerStore,
) -> BasicHost:
    """Make the host; it runs later.

    Args:
        advertised: filled in once the ports are known.
    """
    host = new_host(
        key_pair=key_pair,
        sec_opt=workarounds.noise_only(key_pair),
        muxer_opt=workarounds.yamux_only(),
        peerstore_opt=peerstore,
        connection_config=_CONNECTIONS,
        addrs_factory=lambda _: advertised,
        disable_identify_address_discovery=True,
        transports=[transport],
    )
    assert isinstance(host, BasicHost)
    serving.share_no_limits(host)
    serving.contain_streams(host)
    serving.ping_without_a_lock(host)
    return host


_CONNECTIONS = ConnectionConfig(
    # The library's own limits never act: what they cut, they cut without regard to who it is. Ours
    # are in _admission.py.
    max_connections=_NO_LIMIT,
    high_watermark=_NO_LIMIT,
    low_watermark=0,
    min_connections=0,
    max_connections_per_peer=_NO_LIMIT,
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
    serving.bound_muxer()

    def is_kept(peer_id: ID) -> bool:
        is_own = peer_id == host.get_id()
        return (
            is_own
            or host.is_peer_connected(peer_id)
            or dht.routing_table.get_peer_info(peer_id) is not None
        )

    def group_of(peer_id: ID) -> str:
        connections = workarounds.swarm_of(host).get_connections(peer_id)
        return group_of_addresses(
            [each for one in connections for each in one.get_transport_addresses()]
        )

    def group_of_record(key: bytes) -> str | None:
        peer_id = ID.from_base58(key.decode().rpartition("/")[2])
        return None if peer_id == host.get_id() else group_of(peer_id)

    transport = InboundTransport(ConnectionLimits.within(descriptor_limit()))
    host = _make_host(key_pair, advertised, transport, BoundedPeerStore(is_kept))
    dht = KadDHT(
        host,
        DHTMode.SERVER if config.dht_mode == "server" else DHTMode.CLIENT,
        validator=workarounds.strict_validators({NAMESPACE: HostRecordValidator(crypto, clock)}),
        validator_changed=True,
        strict_validation=True,
    )
    dht.value_store = FairValueStore(host, host.get_id(), group_of_record)
    dht.provider_store = FairProviderStore(host, group_of, random.SystemRandom())
    named = {address for peer in bootstrap for address in peer.addrs}
    guard_dials(host, config.reach, named)
    core = P2PCore(host, dht, transport, crypto, clock, named)
    async with host.run(wanted), workarounds.closing(host, transport.abort_all):
        workarounds.ensure_listening(host, wanted)
        await workarounds.stop_auto_dialling(host)
        listening = sorted(host.get_transport_addrs(), key=lambda each: "/ws" in str(each))
        advertised += advertised_addresses(listening, config.announce)
        async with background_trio_service(dht), anyio.create_task_group() as tasks:
            serving.serve_dht_in_time(host, dht, tasks)
            tasks.start_soon(core.self_check.run, listening)
            for peer in bootstrap:
                if peer.peer_id != host.get_id():  # hosts of one network share one list
                    tasks.start_soon(core.keep_connected, peer)
            yield core
            tasks.cancel_scope.cancel()
