"""What the DHT says is a hint: what the chain does not confirm is dropped, with the reason."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.sdk.conftest import chain_settings, make_home

from fabstir.chain.devnet import Devnet, public_test_key
from fabstir.chain.keystore import Signer
from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.models import DEMO_MODEL
from fabstir.p2p import P2PConfig, P2PNode, open_p2p
from fabstir.primitives.errors import NoHostFound
from fabstir.primitives.ids import Address, ModelId, parse_hash32
from fabstir.primitives.units import PricePerToken
from fabstir.protocol.host_record import HostModel, HostRecord
from fabstir.sdk import FabstirClient, open_client
from fabstir.web.reach import Reach

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

STRANGER = public_test_key("a stranger")


@pytest.fixture
def model_id(devnet: Devnet) -> ModelId:
    return devnet.contracts.models.model_id(DEMO_MODEL.repo, DEMO_MODEL.file)


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
async def client(settings: Settings) -> AsyncGenerator[FabstirClient]:
    async with open_client(settings) as opened:
        yield opened


@pytest.fixture
def record(devnet: Devnet, peer: P2PNode, model_id: ModelId) -> HostRecord:
    price = (devnet.deployment.usdc, PricePerToken(1))
    model = HostModel(model_id=model_id, name="demo", max_model_len=4096, prices=(price,))
    return HostRecord(
        host=STRANGER.address,
        peer_id=peer.peer_id,
        addresses=tuple(address.partition("/p2p/")[0] for address in peer.addresses),
        api_url="http://127.0.0.1:9",
        models=(model,),
        chain_id=devnet.deployment.chain_id,
        registry=devnet.deployment.node_registry,
        sequence=1,
        expires_at=int(time.time()) + 600,
    )


async def publish(peer: P2PNode, record: HostRecord, signer: Signer, model_id: ModelId) -> None:
    await peer.put_host_record(record.encode_signed(signer.secret_key, NATIVE))
    await peer.provide(model_id)


async def reason(client: FabstirClient, peer: P2PNode) -> str:
    with pytest.raises(NoHostFound) as caught:
        await client.find_hosts()
    return caught.value.rejected[peer.peer_id]


async def test_a_wallet_that_is_not_registered(
    client: FabstirClient, peer: P2PNode, record: HostRecord, model_id: ModelId
) -> None:
    await publish(peer, record, STRANGER, model_id)

    assert "is not registered (any more)" in await reason(client, peer)


async def test_a_record_for_another_registry(
    client: FabstirClient, peer: P2PNode, record: HostRecord, model_id: ModelId
) -> None:
    elsewhere = replace(record, registry=Address("0x" + "12" * 20))
    await publish(peer, elsewhere, STRANGER, model_id)

    assert "the record is for registry 0x1212" in await reason(client, peer)


async def test_a_record_that_does_not_offer_the_model(
    client: FabstirClient, peer: P2PNode, record: HostRecord, model_id: ModelId
) -> None:
    other = replace(record.models[0], model_id=ModelId(parse_hash32("34" * 32)))
    await publish(peer, replace(record, models=(other,)), STRANGER, model_id)

    assert "does not offer" in await reason(client, peer)


async def test_a_provider_without_a_record(
    client: FabstirClient, peer: P2PNode, model_id: ModelId
) -> None:
    await peer.provide(model_id)

    assert peer.peer_id in await reason(client, peer)


async def test_nobody_at_all(client: FabstirClient) -> None:
    with pytest.raises(NoHostFound, match="nobody in the DHT says that it serves it"):
        await client.find_hosts()


async def test_no_peer_to_ask(settings: Settings, tmp_path: Path) -> None:
    alone = replace(settings, p2p=replace(settings.p2p, bootstrap=()))

    async with open_client(alone) as client:
        with pytest.raises(NoHostFound, match=r"set p2p\.bootstrap"):
            await client.find_hosts(timeout=0.2)
