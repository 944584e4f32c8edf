"""The registry says who there is, the DHT who is online: neither can crowd out the other."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr
from tests.integration.sdk.conftest import chain_settings, make_home
from tests.integration.sdk.registering import PEER_ID, demo_model_id, register
from tests.integration.sdk.scripted_door import ScriptedDoor, open_scripted_door

from fabstir.chain.devnet import Devnet, public_test_key
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.db import open_database
from fabstir.node.build import Host
from fabstir.p2p import P2PConfig, P2PNode, open_p2p
from fabstir.p2p._core import P2PCore
from fabstir.primitives.cid import model_cid
from fabstir.primitives.errors import NoHostFound
from fabstir.primitives.ids import Address, ModelId, PeerId, parse_hash32
from fabstir.primitives.units import PricePerToken
from fabstir.protocol.host_record import HostModel, HostRecord
from fabstir.sdk import AsyncClient, open_async_client
from fabstir.sdk.discovery import FIND_TIMEOUT, MAX_LISTED, MAX_REASON_CHARS
from fabstir.web.reach import Reach

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

STRANGER = public_test_key("a stranger")
DOOR_SECRET = bytes([5]) * 32
DOOR_KEY = NATIVE.public_key(DOOR_SECRET)
NUM_FAKES = 40
DEAD_URL = "http://127.0.0.1:9"


@pytest.fixture
def model_id(devnet: Devnet) -> ModelId:
    return demo_model_id(devnet)


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncGenerator[P2PNode]:
    """A DHT server that may claim what it likes."""
    config = P2PConfig(
        identity_path=tmp_path / "peer.key", tcp_port=0, reach=Reach(allow_private=True)
    )
    async with open_p2p(config, NATIVE) as node:
        yield node


@pytest.fixture
async def settings(devnet: Devnet, peer: P2PNode, tmp_path: Path) -> Settings:
    overrides = {**chain_settings(devnet), "p2p.bootstrap": peer.addresses[0]}
    return await make_home(tmp_path / "renter", devnet.accounts[1], overrides)


@pytest.fixture
async def client(settings: Settings) -> AsyncGenerator[AsyncClient]:
    async with open_async_client(settings) as opened:
        yield opened


@pytest.fixture
async def queue(devnet: Devnet, tmp_path: Path) -> AsyncGenerator[TransactionQueue]:
    """The transactions of a host that these tests register; it leaves again afterwards."""
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(open_database(f"sqlite:///{tmp_path}/host.db"))
        opened = await stack.enter_async_context(
            open_transaction_queue(devnet.chain, devnet.accounts[2], db)
        )
        yield opened
        if await devnet.contracts.nodes.is_active(devnet.accounts[2].address):
            await opened.send("leave", devnet.contracts.nodes.unregister())


@pytest.fixture
async def door(model_id: ModelId) -> AsyncGenerator[ScriptedDoor]:
    async with open_scripted_door(ScriptedDoor(secret=DOOR_SECRET, model_id=model_id)) as served:
        yield served


@pytest.fixture
def record(devnet: Devnet, peer: P2PNode, model_id: ModelId) -> HostRecord:
    price = (devnet.deployment.usdc, PricePerToken(1))
    model = HostModel(model_id=model_id, name="demo", max_model_len=4096, prices=(price,))
    return HostRecord(
        host=devnet.accounts[2].address,
        peer_id=peer.peer_id,
        addresses=tuple(address.partition("/p2p/")[0] for address in peer.addresses),
        api_url=DEAD_URL,
        models=(model,),
        chain_id=devnet.deployment.chain_id,
        registry=devnet.deployment.node_registry,
        sequence=1,
        expires_at=int(time.time()) + 600,
    )


async def publish(devnet: Devnet, peer: P2PNode, record: HostRecord) -> None:
    await peer.put_host_record(record.encode_signed(devnet.accounts[2].secret_key, NATIVE))
    await peer.provide(demo_model_id(devnet))


async def invent_hosts(peer: P2PNode, model_id: ModelId) -> set[PeerId]:
    """What a hostile DHT server answers: identities made in a second, each with an address."""
    invented = [ID.from_pubkey(create_new_key_pair().public_key) for _ in range(NUM_FAKES)]

    async def announce(core: P2PCore) -> None:
        for number, peer_id in enumerate(invented):
            address = Multiaddr(f"/ip4/127.0.{number}.1/tcp/9")
            core.dht.provider_store.add_provider(
                model_cid(model_id)[2:], PeerInfo(peer_id, [address])
            )

    await peer._bridge.call(announce, timeout=5)  # pyright: ignore[reportPrivateUsage] - no node of ours tells such lies
    return {PeerId(peer_id.to_base58()) for peer_id in invented}


async def rejections(client: AsyncClient) -> dict[str, str]:
    with pytest.raises(NoHostFound) as caught:
        await client.find_hosts()
    return caught.value.rejected


# -- the DHT alone --------------------------------------------------------------------------------


async def test_nobody_at_all(client: AsyncClient) -> None:
    with pytest.raises(NoHostFound, match="nobody in the DHT says that it serves it"):
        await client.find_hosts()


async def test_no_peer_to_ask(settings: Settings) -> None:
    alone = replace(settings, p2p=replace(settings.p2p, bootstrap=()))

    async with open_async_client(alone) as client:
        with pytest.raises(NoHostFound, match=r"set p2p\.bootstrap"):
            await client.find_hosts(timeout=3)


async def test_a_peer_that_no_registered_host_names(
    client: AsyncClient, peer: P2PNode, devnet: Devnet, record: HostRecord
) -> None:
    await publish(devnet, peer, record)

    rejected = await rejections(client)

    assert rejected == {peer.peer_id: "no host that is registered for the model has this peer id"}


async def test_invented_identities_are_counted_not_dialled_and_not_all_listed(
    client: AsyncClient, peer: P2PNode, model_id: ModelId
) -> None:
    invented = await invent_hosts(peer, model_id)
    started = time.monotonic()

    with pytest.raises(NoHostFound) as caught:
        await client.find_hosts()

    assert set(caught.value.rejected) <= invented
    assert len(caught.value.rejected) > MAX_LISTED
    assert f"and {len(caught.value.rejected) - MAX_LISTED} more" in str(caught.value)
    assert len(str(caught.value)) < (MAX_LISTED + 2) * (MAX_REASON_CHARS + 100)
    assert time.monotonic() - started < FIND_TIMEOUT + 5


# -- registered hosts -----------------------------------------------------------------------------


async def test_a_host_of_the_registry_is_found_without_any_libp2p(
    settings: Settings, devnet: Devnet, queue: TransactionQueue, door: ScriptedDoor
) -> None:
    await register(devnet, queue, api_url=door.url, public_key=DOOR_KEY)
    alone = replace(settings, p2p=replace(settings.p2p, bootstrap=()))

    async with open_async_client(alone) as client:
        (offer,) = await client.find_hosts()

    assert (offer.host, offer.api_url) == (devnet.accounts[2].address, door.url)
    assert (offer.public_key, offer.peer_id, offer.max_model_len) == (DOOR_KEY, PEER_ID, 2048)


async def test_a_host_that_moved_is_found_by_its_record(
    client: AsyncClient,
    peer: P2PNode,
    devnet: Devnet,
    queue: TransactionQueue,
    door: ScriptedDoor,
    record: HostRecord,
) -> None:
    await register(devnet, queue, api_url=DEAD_URL, public_key=DOOR_KEY, peer_id=peer.peer_id)
    await publish(devnet, peer, replace(record, api_url=door.url))

    (offer,) = await client.find_hosts()

    assert (offer.host, offer.api_url) == (devnet.accounts[2].address, door.url)


async def test_a_door_of_somebody_else_is_no_offer(
    client: AsyncClient, devnet: Devnet, queue: TransactionQueue, door: ScriptedDoor
) -> None:
    other = NATIVE.public_key(bytes([6]) * 32)
    await register(devnet, queue, api_url=door.url, public_key=other)

    rejected = await rejections(client)

    assert "does not hold the publicKey" in rejected[devnet.accounts[2].address]


@pytest.mark.parametrize("fault", ["registry", "model", "wallet"])
async def test_a_record_that_is_not_the_registered_hosts(
    client: AsyncClient,
    peer: P2PNode,
    devnet: Devnet,
    queue: TransactionQueue,
    record: HostRecord,
    fault: str,
) -> None:
    await register(devnet, queue, api_url=DEAD_URL, public_key=DOOR_KEY, peer_id=peer.peer_id)
    signer = devnet.accounts[2]
    if fault == "registry":
        record, reason = replace(record, registry=Address("0x" + "12" * 20)), "for registry 0x1212"
    elif fault == "model":
        other = replace(record.models[0], model_id=ModelId(parse_hash32("34" * 32)))
        record, reason = replace(record, models=(other,)), "does not offer"
    else:
        signer = STRANGER
        record, reason = replace(record, host=STRANGER.address), "is made out to"
    await peer.put_host_record(record.encode_signed(signer.secret_key, NATIVE))
    await peer.provide(demo_model_id(devnet))

    rejected = await rejections(client)

    assert "does not answer" in rejected[devnet.accounts[2].address]
    assert reason in rejected[devnet.accounts[2].address]


async def test_a_host_that_hangs_costs_no_more_than_the_time_given(
    client: AsyncClient, devnet: Devnet, queue: TransactionQueue, door: ScriptedDoor
) -> None:
    door.silent |= {"/v1/health"}
    await register(devnet, queue, api_url=door.url, public_key=DOOR_KEY)
    started = time.monotonic()

    with pytest.raises(NoHostFound) as caught:
        await client.find_hosts(timeout=2)

    assert devnet.accounts[2].address in caught.value.rejected
    assert "in time" in str(caught.value)
    assert time.monotonic() - started < 4


# -- last, because this host stays registered -----------------------------------------------------


async def test_an_honest_host_is_found_among_invented_ones_and_dead_ones(
    client: AsyncClient,
    peer: P2PNode,
    devnet: Devnet,
    queue: TransactionQueue,
    model_id: ModelId,
    host: Host,
) -> None:
    """The renter's only peer knows forty inventions, and the honest host knows nobody."""
    await invent_hosts(peer, model_id)
    await register(devnet, queue, api_url=DEAD_URL, public_key=DOOR_KEY)
    started = time.monotonic()

    offers = await client.find_hosts()

    assert [offer.host for offer in offers] == [host.market.signer.address]
    assert offers[0].max_model_len == 4096
    assert time.monotonic() - started < FIND_TIMEOUT
