from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import pytest
from tests.integration.p2p.conftest import OpenNode
from tests.unit.p2p.making import MODEL, NOW, signed_record
from websockets.asyncio.client import connect

from fabstir.crypto import NATIVE
from fabstir.p2p import P2PConfig, open_p2p
from fabstir.primitives.errors import (
    ConfigError,
    HostRecordInvalid,
    HostRecordMissing,
    KeystoreError,
    PeerUnreachable,
)
from fabstir.primitives.ids import PeerId
from fabstir.web.reach import STRANGERS

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

STRANGER = PeerId("12D3KooWBP5s5HzuMeRBB7t65kh3wuN5zNm1j9siY5bygRMW4fdH")


def multistream(line: str) -> bytes:
    """A line of multistream-select, with which libp2p peers agree on a protocol."""
    return bytes([len(line) + 1]) + line.encode() + b"\n"


def port_of(address: str) -> int:
    return int(address.split("/tcp/")[1].split("/")[0])


@pytest.fixture
async def warned() -> AsyncGenerator[anyio.Event]:
    """Set when the node warns that a bootstrap peer is unreachable."""
    event, loop = anyio.Event(), asyncio.get_running_loop()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING and "bootstrap peer" in record.msg:
                loop.call_soon_threadsafe(event.set)

    watch, logger = Watch(), logging.getLogger("fabstir.p2p")
    logger.addHandler(watch)
    yield event
    logger.removeHandler(watch)


async def test_a_renter_finds_a_host_through_a_third_node(open_node: OpenNode) -> None:
    bootstrap = await open_node()
    host = await open_node(bootstrap=bootstrap.addresses)
    renter = await open_node(bootstrap=bootstrap.addresses, dht_mode="client")

    num_informed = await host.provide(MODEL)
    num_keepers = await host.put_host_record(signed_record(host.peer_id, sequence=7))
    providers = await renter.find_providers(MODEL)
    record = await renter.get_host_record(host.peer_id)
    seconds = await renter.ping(providers[0].peer_id)

    assert (num_informed, num_keepers) == (1, 1)
    assert [provider.peer_id for provider in providers] == [host.peer_id]
    assert providers[0].addresses == host.addresses
    assert (record.peer_id, record.sequence) == (host.peer_id, 7)
    assert 0 < seconds < 1


async def test_hosts_find_each_other_but_not_themselves(open_node: OpenNode) -> None:
    bootstrap = await open_node()
    hosts = [await open_node(bootstrap=bootstrap.addresses) for _ in range(3)]
    for host in hosts:
        await host.provide(MODEL)

    found = await hosts[0].find_providers(MODEL)

    assert {provider.peer_id for provider in found} == {host.peer_id for host in hosts[1:]}
    assert len(found) == 2


async def test_a_new_price_is_seen_at_once(open_node: OpenNode) -> None:
    host = await open_node()
    renter = await open_node(bootstrap=host.addresses, dht_mode="client")
    await host.put_host_record(signed_record(host.peer_id, sequence=1))
    first = await renter.get_host_record(host.peer_id)

    await host.put_host_record(signed_record(host.peer_id, sequence=2))
    second = await renter.get_host_record(host.peer_id)

    assert (first.sequence, second.sequence) == (1, 2)


async def test_the_network_keeps_the_record_of_a_host_that_is_away(
    open_node: OpenNode, make_config: Callable[..., P2PConfig]
) -> None:
    bootstrap = await open_node()
    renter = await open_node(bootstrap=bootstrap.addresses)
    config = make_config(bootstrap=bootstrap.addresses)
    async with open_p2p(config, NATIVE, clock=lambda: NOW) as host:
        await host.wait_for_peers()
        await host.put_host_record(signed_record(host.peer_id, sequence=3))

    record = await renter.get_host_record(host.peer_id)

    assert record.sequence == 3
    with pytest.raises(PeerUnreachable, match="is it running"):
        await renter.ping(host.peer_id)


async def test_a_lookup_walks_beyond_the_neighbours(open_node: OpenNode) -> None:
    """Each node knows only the one before it when it joins."""
    chain = [await open_node()]
    for _ in range(5):
        chain.append(await open_node(bootstrap=chain[-1].addresses))
    await chain[0].provide(MODEL)
    await chain[0].put_host_record(signed_record(chain[0].peer_id))

    found = await chain[-1].find_providers(MODEL)
    record = await chain[-1].get_host_record(chain[0].peer_id)

    assert [provider.peer_id for provider in found] == [chain[0].peer_id]
    assert record.peer_id == chain[0].peer_id


async def test_a_record_expires(open_node: OpenNode) -> None:
    now = float(NOW)
    host = await open_node()
    renter = await open_node(bootstrap=host.addresses, clock=lambda: now)
    await host.put_host_record(signed_record(host.peer_id, expires_at=NOW + 10))
    await renter.get_host_record(host.peer_id)

    now += 11

    with pytest.raises(HostRecordInvalid, match="expired 1 s ago"):
        await renter.get_host_record(host.peer_id)


async def test_nobody_publishes_an_expired_record(open_node: OpenNode) -> None:
    host = await open_node()

    with pytest.raises(HostRecordInvalid, match="expired"):
        await host.put_host_record(signed_record(host.peer_id, expires_at=NOW - 1))


async def test_nobody_publishes_the_record_of_another(open_node: OpenNode) -> None:
    host = await open_node()

    with pytest.raises(HostRecordInvalid, match="made out to peer"):
        await host.put_host_record(signed_record(STRANGER))


async def test_a_record_that_nobody_has_is_missing(open_node: OpenNode) -> None:
    host = await open_node()
    renter = await open_node(bootstrap=host.addresses)

    with pytest.raises(HostRecordMissing, match=STRANGER):
        await renter.get_host_record(STRANGER)


async def test_a_node_alone_finds_nothing_and_is_told_so(open_node: OpenNode) -> None:
    node = await open_node()

    assert await node.provide(MODEL) == 0
    assert await node.put_host_record(signed_record(node.peer_id)) == 0
    assert await node.find_providers(MODEL) == ()
    assert (await node.get_host_record(node.peer_id)).sequence == 1
    with pytest.raises(TimeoutError):
        await node.wait_for_peers(timeout=0.05)


async def test_a_bootstrap_peer_may_come_later(
    make_config: Callable[..., P2PConfig], warned: anyio.Event
) -> None:
    late = make_config()
    async with open_p2p(late, NATIVE) as node:
        address = node.addresses[0]
    early = make_config(bootstrap=(address,))

    async with open_p2p(early, NATIVE) as node:
        with anyio.fail_after(10):
            await warned.wait()
        late = P2PConfig(identity_path=late.identity_path, tcp_port=port_of(address))
        async with open_p2p(late, NATIVE) as bootstrap:
            await node.wait_for_peers(timeout=10)
            # By its peer id: a count would take in the bootstrap's own look at itself.
            assert await bootstrap.ping(node.peer_id) > 0

    assert bootstrap.addresses == (address,)


async def test_a_node_returns_on_another_port(
    open_node: OpenNode, make_config: Callable[..., P2PConfig]
) -> None:
    bootstrap = await open_node()
    renter = await open_node(bootstrap=bootstrap.addresses)
    config = make_config(bootstrap=bootstrap.addresses)
    async with open_p2p(config, NATIVE) as host:
        await host.wait_for_peers()
        await host.provide(MODEL)
        [before] = await renter.find_providers(MODEL)
        await renter.ping(host.peer_id)
    async with open_p2p(config, NATIVE) as host:
        await host.wait_for_peers()
        await host.provide(MODEL)

        [after] = await renter.find_providers(MODEL)
        await renter.ping(host.peer_id)

    assert before.peer_id == after.peer_id
    assert set(host.addresses) <= set(after.addresses)


async def test_browsers_get_a_websocket(open_node: OpenNode) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    host = await open_node(ws_port=port)

    assert f"/ip4/127.0.0.1/tcp/{port}/ws/p2p/{host.peer_id}" in host.addresses
    async with connect(f"ws://127.0.0.1:{port}") as websocket:
        await websocket.send(multistream("/multistream/1.0.0"))
        await websocket.send(multistream("/plaintext/2.0.0"))
        await websocket.send(multistream("/noise"))
        expected = b"".join(map(multistream, ["/multistream/1.0.0", "na", "/noise"]))
        answer = b""
        with anyio.fail_after(5):
            while len(answer) < len(expected):
                answer += await websocket.recv(decode=False)
    assert answer == expected


async def test_ping_checks_who_answers(open_node: OpenNode) -> None:
    node, other = await open_node(), await open_node()
    wrong = other.addresses[0].split("/p2p/")[0] + f"/p2p/{STRANGER}"

    with pytest.raises(PeerUnreachable):
        await node.ping(wrong)
    with pytest.raises(PeerUnreachable, match="not a peer id"):
        await node.ping("0OIl")
    assert await node.ping(other.addresses[0]) > 0


async def test_a_taken_port_names_the_port_and_the_setting(
    open_node: OpenNode, make_config: Callable[..., P2PConfig]
) -> None:
    node = await open_node()
    port = port_of(node.addresses[0])

    with pytest.raises(ConfigError, match=rf"port {port} .*p2p\.port"):
        async with open_p2p(make_config(tcp_port=port), NATIVE):
            pytest.fail("two nodes on one port")


async def test_an_address_of_another_machine_cannot_be_listened_on(
    make_config: Callable[..., P2PConfig],
) -> None:
    with pytest.raises(ConfigError, match=r"p2p\.listen"):
        async with open_p2p(make_config(listen_host="203.0.113.1"), NATIVE):
            pytest.fail("listening on somebody else's address")


async def test_bad_settings_are_named(
    make_config: Callable[..., P2PConfig], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"p2p\.bootstrap"):
        async with open_p2p(make_config(bootstrap=("/ip4/1.2.3.4/tcp/1",)), NATIVE):
            pytest.fail("a bootstrap peer without a peer id")
    with pytest.raises(KeystoreError, match=r"p2p\.identity"):
        async with open_p2p(make_config(identity_path=tmp_path), NATIVE):
            pytest.fail("a folder as a key file")


async def test_nothing_is_left_behind(make_config: Callable[..., P2PConfig]) -> None:
    async with open_p2p(make_config(), NATIVE) as node:
        peer_id, port = node.peer_id, port_of(node.addresses[0])
        async with open_p2p(make_config(bootstrap=node.addresses), NATIVE) as other:
            await other.ping(peer_id)

    assert [thread for thread in threading.enumerate() if thread.name == "libp2p"] == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


async def test_no_peer_sends_a_renter_to_a_private_address(open_node: OpenNode) -> None:
    """The bootstrap peer is on loopback because the settings say so; whom it names is not."""
    bootstrap = await open_node()
    host = await open_node(bootstrap=bootstrap.addresses)
    await host.provide(MODEL)
    with anyio.fail_after(10):
        while (await host.inbound()).age is None:  # its look at itself is a connection too
            await anyio.sleep(0.01)
    before = await host.stats()

    renter = await open_node(bootstrap=bootstrap.addresses, dht_mode="client", reach=STRANGERS)
    (provider,) = await renter.find_providers(MODEL)
    with pytest.raises(PeerUnreachable):
        await renter.ping(provider.peer_id)

    assert provider.peer_id == host.peer_id
    # Nobody more came to it; a look from the beginning may still have been leaving.
    assert (await host.stats()).num_connected_peers <= before.num_connected_peers
    assert await renter.ping(host.addresses[0]) > 0  # the user himself says where
