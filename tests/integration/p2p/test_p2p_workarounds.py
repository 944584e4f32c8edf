"""One test for each work-around of p2p/_workarounds.py and p2p/_kad.py, all on trio.

Where it is cheap, a test first shows the library's bug: when that part fails, the bug is mended
and the work-around can go.
"""

from __future__ import annotations

import math
import random
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import libp2p.kad_dht.value_store as libp2p_values
import pytest
import trio
from libp2p import new_host
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.custom_types import TMuxerOptions, TProtocol, TSecurityOptions
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING_PROTOCOL
from libp2p.kad_dht.common import PROTOCOL_ID as KAD_PROTOCOL
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.records.record import make_signed_put_record
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.stream_muxer.mplex.mplex import MPLEX_PROTOCOL_ID, Mplex
from multiaddr import Multiaddr
from tests.unit.p2p.making import MODEL, NOW, signed_record

from fabstir.crypto import NATIVE
from fabstir.p2p import P2PConfig, _workarounds
from fabstir.p2p._core import P2PCore, open_core
from fabstir.p2p._identity import load_or_create_identity
from fabstir.p2p._stores import FairProviderStore
from fabstir.p2p._workarounds import dial, ensure_listening, noise_only, open_stream, swarm_of
from fabstir.p2p.limits import MAX_STORED_RECORDS
from fabstir.p2p.records import (
    NAMESPACE,
    host_record_key,
    open_host_record,
    seal_host_record,
)
from fabstir.primitives.cid import model_cid
from fabstir.primitives.errors import ConfigError, PeerRefused, PeerUnreachable
from fabstir.primitives.ids import PeerId

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

STRANGER = PeerId("12D3KooWBP5s5HzuMeRBB7t65kh3wuN5zNm1j9siY5bygRMW4fdH")

OpenCore = Callable[..., Coroutine[Any, Any, P2PCore]]


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def open_one(make_config: Callable[..., P2PConfig]) -> AsyncGenerator[OpenCore]:
    """Open cores on this trio loop that live until the test ends."""
    async with AsyncExitStack() as stack:

        async def open_(**changes: Any) -> P2PCore:
            config = make_config(**changes)
            core = await stack.enter_async_context(open_core(config, NATIVE, lambda: NOW))
            if config.bootstrap:
                with anyio.fail_after(10):
                    await core.wait_for_peers()
            return core

        yield open_


@asynccontextmanager
async def stock_host(
    security: Callable[[KeyPair], TSecurityOptions] | None = None,
    muxers: TMuxerOptions | None = None,
) -> AsyncGenerator[BasicHost]:
    """A host as the library makes it, but for what is given. It does not listen."""
    key_pair = create_new_key_pair()
    sec_opt = security(key_pair) if security else None
    host = new_host(key_pair=key_pair, sec_opt=sec_opt, muxer_opt=muxers)
    assert isinstance(host, BasicHost)
    async with host.run([]), _workarounds.closing(host):
        yield host


def plaintext_only(key_pair: KeyPair) -> TSecurityOptions:
    return {PLAINTEXT_PROTOCOL_ID: InsecureTransport(key_pair)}


def info(core: P2PCore) -> PeerInfo:
    return info_from_p2p_addr(Multiaddr(core.addresses[0]))


def id_of(core: P2PCore) -> ID:
    return ID.from_base58(core.peer_id)


def ignore(_peer_id: ID, _answer: Message) -> None:
    return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def put_message(key: str, value: bytes, core: P2PCore) -> Message:
    record = make_signed_put_record(key.encode(), value, core.host.get_private_key())
    return Message(type=Message.PUT_VALUE, key=key.encode(), record=record)


class Disconnects(INotifee):
    """Sets `happened` when a connection ends."""

    def __init__(self) -> None:
        self.happened = trio.Event()

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        self.happened.set()

    async def connected(self, network: INetwork, conn: INetConn) -> None: ...
    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...
    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...
    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...
    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


async def test_a_dial_does_not_wait_for_a_head_start(open_one: OpenCore) -> None:
    server = await open_one()
    shortest = math.inf
    for _ in range(10):  # a head start would delay each; a busy machine does not
        client = await open_one()
        started = trio.current_time()
        await dial(client.host, info(server))
        shortest = min(shortest, trio.current_time() - started)
        if shortest < 0.25:
            break

    assert shortest < 0.25


async def test_plaintext_is_refused(open_one: OpenCore) -> None:
    server = await open_one()

    async with stock_host(plaintext_only) as stranger:
        with pytest.raises(SwarmException):
            await stranger.connect(info(server))
        assert server.stats().num_connected_peers == 0
    async with stock_host(noise_only) as friend:
        await friend.connect(info(server))

        assert friend.is_peer_connected(id_of(server))


async def test_mplex_is_refused(open_one: OpenCore) -> None:
    server = await open_one()

    async with stock_host(noise_only, {MPLEX_PROTOCOL_ID: Mplex}) as stranger:
        with pytest.raises(SwarmException):
            await stranger.connect(info(server))


async def test_a_second_node_on_a_port_is_refused(open_one: OpenCore) -> None:
    node = await open_one()
    address = info(node).addrs[0]

    async with stock_host() as first, stock_host() as second:  # the bug: both listen there
        assert await first.get_network().listen(Multiaddr(f"/ip4/127.0.0.1/tcp/{free_port()}"))
        assert await second.get_network().listen(first.get_transport_addrs()[0])
        assert not await second.get_network().listen(address)
    with pytest.raises(ConfigError, match=r"p2p\.port"):
        await open_one(tcp_port=int(str(address).rsplit("/", 1)[1]))


async def test_a_node_that_cannot_listen_says_so() -> None:
    foreign = Multiaddr("/ip4/203.0.113.1/tcp/0")

    async with stock_host() as stock:
        assert not await stock.get_network().listen(foreign)  # the bug: no error

        with pytest.raises(ConfigError, match=r"p2p\.listen"):
            ensure_listening(stock, [foreign])


async def test_a_peer_sees_us_leave_at_once(
    open_one: OpenCore, make_config: Callable[..., P2PConfig]
) -> None:
    server = await open_one()
    disconnects = Disconnects()
    server.host.get_network().register_notifee(disconnects)

    async with open_core(make_config(), NATIVE, lambda: NOW) as client:
        await dial(client.host, info(server))
    with anyio.fail_after(2):
        await disconnects.happened.wait()

    assert server.stats().num_connected_peers == 0


async def test_leaving_many_peers_takes_no_longer(
    open_one: OpenCore, make_config: Callable[..., P2PConfig]
) -> None:
    servers = [await open_one() for _ in range(8)]
    async with open_core(make_config(), NATIVE, lambda: NOW) as client:
        for server in servers:
            await dial(client.host, info(server))
        started = trio.current_time()

    assert trio.current_time() - started < 8 * 0.2


async def test_every_address_of_a_peer_is_tried(open_one: OpenCore) -> None:
    server, client = await open_one(), await open_one()
    old = Multiaddr(f"/ip4/127.0.0.1/tcp/{free_port()}")

    await dial(client.host, PeerInfo(id_of(server), [old, *info(server).addrs]))

    assert client.host.is_peer_connected(id_of(server))


async def test_a_peer_may_be_dialled_again_at_once(open_one: OpenCore, tmp_path: Path) -> None:
    path, port, client = tmp_path / "late.key", free_port(), await open_one()
    identity = ID.from_pubkey(load_or_create_identity(path).public_key)
    late = PeerInfo(identity, [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")])

    with pytest.raises(PeerUnreachable, match=f"tcp/{port}"):
        await dial(client.host, late)
    await open_one(identity_path=path, tcp_port=port)
    await dial(client.host, late)

    assert client.host.is_peer_connected(identity)


async def test_a_silent_address_does_not_hold_a_dial(open_one: OpenCore) -> None:
    client = await open_one()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = Multiaddr(f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}")
        stranger = ID.from_pubkey(create_new_key_pair().public_key)

        with pytest.raises(PeerUnreachable), anyio.fail_after(2):
            await dial(client.host, PeerInfo(stranger, [address]), timeout=0.2)


async def test_too_many_streams_fail_instead_of_hanging(open_one: OpenCore) -> None:
    server, client = await open_one(), await open_one()
    await dial(client.host, info(server))

    with pytest.raises(PeerUnreachable), anyio.fail_after(20):
        for _ in range(2000):
            await open_stream(client.host, id_of(server), PING_PROTOCOL, timeout=0.5)


async def test_an_unknown_protocol_is_a_peer_error(open_one: OpenCore) -> None:
    server, client = await open_one(), await open_one()
    await dial(client.host, info(server))

    with pytest.raises(PeerUnreachable, match="/fabstir/none"):
        await open_stream(client.host, id_of(server), TProtocol("/fabstir/none/1.0.0"))


async def test_the_routing_table_holds_servers_only(open_one: OpenCore) -> None:
    bootstrap = await open_one()
    server = await open_one(bootstrap=bootstrap.addresses)
    client = await open_one(bootstrap=bootstrap.addresses, dht_mode="client")

    await client.find_providers(MODEL, budget=5)

    assert set(bootstrap.dht.routing_table.get_peer_ids()) == {id_of(server)}
    assert set(client.dht.routing_table.get_peer_ids()) == {id_of(bootstrap), id_of(server)}


async def test_nobody_is_dialled_unasked(open_one: OpenCore) -> None:
    known, node = await open_one(), await open_one()
    node.host.get_peerstore().add_addrs(id_of(known), info(known).addrs, 60)

    await swarm_of(node.host).auto_connector.maybe_connect()

    assert node.stats().num_connected_peers == 0


@pytest.mark.parametrize("key", ["plain", "/pk/abc", "/other/abc", f"/{NAMESPACE}/abc"])
async def test_a_server_keeps_nothing_but_host_records(open_one: OpenCore, key: str) -> None:
    server, client = await open_one(), await open_one()
    await dial(client.host, info(server))

    is_taken = await client.client.tell(id_of(server), put_message(key, b"value", client))

    assert not is_taken
    assert server.dht.get_value_store_size() == 0


async def test_a_server_keeps_the_newest_valid_record(open_one: OpenCore) -> None:
    server, host, thief = await open_one(), await open_one(), await open_one()
    key = host_record_key(host.peer_id)
    for core in (host, thief):
        await dial(core.host, info(server))

    async def offer(sender: P2PCore, sequence: int, expires_at: int = NOW + 600) -> bool:
        record = signed_record(host.peer_id, sequence=sequence, expires_at=expires_at)
        value = seal_host_record(record, sender.host.get_private_key())
        return await sender.client.tell(id_of(server), put_message(key, value, sender))

    async def kept() -> int:
        stored = server.dht.value_store.get(key.encode())
        assert stored is not None
        return open_host_record(host.peer_id, stored.value, NATIVE, NOW).sequence

    assert await offer(host, 5)
    assert await offer(host, 5)  # the same again: its life in the store is renewed
    assert not await offer(host, 4)
    assert not await offer(thief, 99)
    assert not await offer(host, 100, expires_at=NOW - 1)
    assert await kept() == 5
    assert await offer(host, 6)
    assert await kept() == 6


async def test_a_lookup_reaches_peers_beyond_the_neighbours(open_one: OpenCore) -> None:
    """The library's own walk stops at the first answer: FIND_NODE refuses our long keys."""
    far = await open_one()
    middle = await open_one(bootstrap=far.addresses)
    near = await open_one(dht_mode="client")
    await dial(near.host, info(middle))
    await near.dht.add_peer(id_of(middle))
    key = host_record_key(far.peer_id).encode()

    with pytest.raises(PeerRefused):
        await near.client.ask(id_of(middle), Message(type=Message.FIND_NODE, key=key))
    answers: list[Message] = []
    found = await near.client.walk(
        Message(type=Message.GET_VALUE, key=key),
        lambda _peer, answer: answers.append(answer),
        budget=5,
    )

    assert len(answers) == 2
    assert set(found) == {id_of(middle), id_of(far)}


async def test_strangers_cannot_fill_a_server(
    open_one: OpenCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await open_one()
    assert vars(libp2p_values)["MAX_VALUE_STORE_SIZE"] == MAX_STORED_RECORDS
    monkeypatch.setattr(libp2p_values, "MAX_VALUE_STORE_SIZE", 2)

    for number in range(5):
        server.dht.value_store.put(f"/{NAMESPACE}/{number}".encode(), b"value")

    assert server.dht.get_value_store_size() == 2


async def test_a_provider_that_is_not_the_sender_is_not_kept(open_one: OpenCore) -> None:
    server, liar, victim = await open_one(), await open_one(), await open_one()
    await dial(liar.host, info(server))
    key = model_cid(MODEL)[2:]
    message = Message(type=Message.ADD_PROVIDER, key=key)
    message.providerPeers.add(
        id=id_of(victim).to_bytes(), addrs=[address.to_bytes() for address in info(victim).addrs]
    )

    await liar.client.tell(id_of(server), message)

    assert server.dht.provider_store.get_providers(key) == []


class Sha256Only(FairProviderStore):
    """Knows sha2-256 keys only, as the DHT servers of js-libp2p do."""

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        self._check(key)
        super().add_provider(key, provider)

    def get_providers(self, key: bytes) -> list[PeerInfo]:
        self._check(key)
        return super().get_providers(key)

    @staticmethod
    def _check(key: bytes) -> None:
        if not key.startswith(b"\x12\x20"):
            raise ValueError("Invalid CID")


async def test_a_server_of_sha256_keys_keeps_who_provides_a_model(open_one: OpenCore) -> None:
    server = await open_one()
    server.dht.provider_store = Sha256Only(server.host, lambda _: "", random.Random(1))
    host = await open_one(bootstrap=server.addresses)
    renter = await open_one(bootstrap=server.addresses, dht_mode="client")

    num_informed = await host.provide(MODEL, 5)
    found = await renter.find_providers(MODEL, 5)

    assert num_informed == 1
    assert [provider.peer_id for provider in found] == [host.peer_id]


async def test_a_server_of_our_keys_alone_is_asked_as_well(open_one: OpenCore) -> None:
    """Hosts of earlier versions publish under our key only."""
    server = await open_one()
    renter = await open_one(bootstrap=server.addresses)
    host = PeerInfo(ID.from_base58(STRANGER), [Multiaddr("/ip4/127.0.0.1/tcp/9000")])
    server.dht.provider_store.add_provider(model_cid(MODEL)[2:], host)

    found = await renter.find_providers(MODEL, 5)

    assert [provider.peer_id for provider in found] == [STRANGER]


async def test_a_refusal_removes_nobody_from_the_routing_table(open_one: OpenCore) -> None:
    server = await open_one()
    server.dht.provider_store = Sha256Only(server.host, lambda _: "", random.Random(1))
    client = await open_one(bootstrap=server.addresses)
    refused = Message(type=Message.GET_PROVIDERS, key=model_cid(MODEL)[2:])

    assert await client.client.walk(refused, ignore, budget=5) == []
    server.host.remove_stream_handler(KAD_PROTOCOL)
    with pytest.raises(PeerRefused):
        await client.client.ask(id_of(server), refused)
    assert await client.client.walk(refused, ignore, budget=5) == []

    assert client.dht.routing_table.get_peer_ids() == [id_of(server)]


async def test_a_peer_that_is_gone_leaves_the_routing_table(
    open_one: OpenCore, make_config: Callable[..., P2PConfig]
) -> None:
    client = await open_one()
    async with open_core(make_config(), NATIVE, lambda: NOW) as server:
        gone = id_of(server)
        await dial(client.host, info(server))
        assert await client.dht.routing_table.add_peer(gone)
    request = Message(type=Message.GET_PROVIDERS, key=model_cid(MODEL)[2:])

    assert await client.client.walk(request, ignore, budget=10) == []

    assert gone not in client.dht.routing_table.get_peer_ids()
