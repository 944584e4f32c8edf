"""Registered hosts that hang keep no renter from the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import cast

import anyio
import pytest

from fabstir.chain.contracts import Contracts, NodeInfo
from fabstir.crypto import NATIVE
from fabstir.market.selection import HostHistory
from fabstir.p2p import P2PNode
from fabstir.primitives.errors import HostUnresponsive
from fabstir.primitives.ids import NATIVE_TOKEN, Address, ChainId, Hash32, ModelId
from fabstir.primitives.units import PricePerToken, Wei
from fabstir.protocol.exchange.streams import FrameStream
from fabstir.sdk.discovery import MAX_CANDIDATES, MAX_PARALLEL, Discovery
from fabstir.sdk.door import MAX_CONNECTIONS, DoorAnswer, Doors
from fabstir.sdk.money import PaymentToken
from fabstir.sdk.offers import Model
from fabstir.sdk.transports import Transports

pytestmark = pytest.mark.anyio

MODEL = Model(
    model_id=ModelId("0x" + "11" * 32), repo="r", file="f", digest=Hash32("0x" + "22" * 32)
)
HOSTS = [Address(f"0x{number:040x}") for number in range(1, MAX_CANDIDATES + 1)]
KEY = NATIVE.public_key(bytes([5]) * 32)


class Nodes:
    """The registry's answers."""

    async def hosts_for(self, model_id: ModelId) -> Sequence[Address]:
        return HOSTS

    async def node(self, address: Address) -> NodeInfo:
        return NodeInfo(
            operator=address,
            staked_amount=Wei(1),
            is_active=True,
            metadata=json.dumps({"publicKey": KEY.hex(), "peerId": f"peer-{address}"}),
            api_url=f"http://{address}",
            models=(MODEL.model_id,),
            min_price_native=PricePerToken(1),
            min_price_stable=PricePerToken(1),
        )

    async def price(self, host: Address, model_id: ModelId, token: Address) -> PricePerToken:
        return PricePerToken(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Chain:
    nodes: Nodes


class SilentDht:
    async def wait_for_peers(self, *, timeout: float) -> None:
        raise TimeoutError


@dataclass
class OneDoor:
    """Only the last host answers; the others hang."""

    asked: list[str] = field(default_factory=list[str])

    async def answer_of(self, api_url: str, model_id: ModelId, public_key: bytes) -> DoorAnswer:
        self.asked.append(api_url)
        if api_url != f"http://{HOSTS[-1]}":
            await anyio.sleep_forever()
        return DoorAnswer(max_model_len=1)


class NearDialer:
    """All addresses are as near as can be, by a transport that carries nothing."""

    def can_dial(self, address: str) -> bool:
        return True

    async def dial(self, address: str, peer: str) -> FrameStream:
        raise HostUnresponsive(f"{peer} is only measured here")

    async def measure(self, address: str, peer: str) -> float:
        return 0.0


async def test_hosts_that_hang_do_not_hide_the_one_that_serves() -> None:
    async def histories() -> Mapping[Address, HostHistory]:
        return {HOSTS[-1]: HostHistory(num_served=1)}

    doors = OneDoor()
    discovery = Discovery(
        p2p=cast("P2PNode", SilentDht()),
        contracts=cast("Contracts", Chain(Nodes())),
        chain_id=ChainId(1),
        crypto=NATIVE,
        transports=Transports([NearDialer()]),
        doors=cast("Doors", doors),
        histories=histories,
        random=Random(7),
    )
    token = PaymentToken(name="eth", address=NATIVE_TOKEN, symbol="ETH", decimals=18)

    (offer,) = await discovery.find(MODEL, token, timeout=1)

    assert offer.host == HOSTS[-1]
    assert doors.asked[0] == offer.api_url
    assert len(doors.asked) == len(HOSTS)
    assert doors.asked[1:] != sorted(doors.asked[1:])
    assert 2 * MAX_PARALLEL <= MAX_CONNECTIONS
