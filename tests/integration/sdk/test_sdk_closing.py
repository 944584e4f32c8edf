"""How a session ends is decided by what the chain says, whatever anybody says on the wire."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.anvil import increase_time
from tests.integration.sdk.conftest import chain_settings, make_home
from tests.integration.sdk.registering import PEER_ID, demo_model_id, register
from tests.integration.sdk.scripted_host import Line, ScriptedHost, open_scripted_host

from fabstir.chain.contracts import SessionStatus
from fabstir.chain.devnet import Devnet
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.config import Settings
from fabstir.db import open_database
from fabstir.models import DEMO_MODEL
from fabstir.primitives.ids import Hash32, parse_hash32
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.content import Message
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.payloads import ClosedPlaintext
from fabstir.sdk import (
    NATIVE_COIN,
    AsyncClient,
    HostOffer,
    Model,
    SessionSettlement,
    open_async_client,
)
from fabstir.sdk import session as session_module
from fabstir.sdk.session_job import situation

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

DEPOSIT = Wei(10**15)
HELLO = [Message("user", "Say hello.")]
NUM_TOKENS = 8


@pytest.fixture(scope="module")
async def queue(
    devnet: Devnet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[TransactionQueue]:
    """The host's transactions."""
    folder = tmp_path_factory.mktemp("host")
    async with (
        open_database(f"sqlite:///{folder}/host.db") as db,
        open_transaction_queue(devnet.chain, devnet.accounts[0], db) as opened,
    ):
        yield opened


async def answer_in_eight_tokens(line: Line) -> None:
    await line.deliver("Hello there.", range(NUM_TOKENS))
    await line.receipt()
    await line.end()


@pytest.fixture
async def host(devnet: Devnet, queue: TransactionQueue) -> AsyncGenerator[ScriptedHost]:
    """Registered and scripted: it answers every request in eight tokens."""
    market = devnet.contracts.marketplace.address
    price = (await devnet.contracts.nodes.price_limits()).min_native
    scripted = ScriptedHost(
        secret=devnet.accounts[0].secret_key,
        encryption_secret=bytes([5]) * 32,
        domain=Domain(devnet.deployment.chain_id, market),
        model_digest=parse_hash32(DEMO_MODEL.sha256),
        price=price,
        answer=answer_in_eight_tokens,
    )
    async with open_scripted_host(scripted):
        await register(devnet, queue, api_url=scripted.api_url, public_key=scripted.public_key)
        yield scripted


@pytest.fixture
async def settings(devnet: Devnet, tmp_path: Path) -> Settings:
    return await make_home(tmp_path / "renter", devnet.accounts[1], chain_settings(devnet))


@pytest.fixture
async def client(settings: Settings) -> AsyncGenerator[AsyncClient]:
    async with open_async_client(settings) as opened:
        yield opened


@pytest.fixture
def offer(devnet: Devnet, host: ScriptedHost) -> HostOffer:
    return HostOffer(
        host=host.address,
        peer_id=PEER_ID,
        api_url=host.api_url,
        addresses=(host.api_url,),
        public_key=host.public_key,
        model=Model(
            model_id=demo_model_id(devnet),
            repo=DEMO_MODEL.repo,
            file=DEMO_MODEL.file,
            digest=parse_hash32(DEMO_MODEL.sha256),
        ),
        max_model_len=4096,
        token=NATIVE_COIN,
        price_per_token=host.price,
        latency=0.01,
    )


async def status_of(devnet: Devnet, settlement: SessionSettlement) -> SessionStatus:
    assert settlement.job_id is not None
    job = await devnet.contracts.marketplace.session(settlement.job_id)
    assert job is not None
    return job.status


async def talk_and_close(client: AsyncClient, offer: HostOffer) -> SessionSettlement:
    async with client.open_session(offer, deposit=DEPOSIT) as session:
        async with session.chat(HELLO) as answer:
            await answer.complete()
        assert session.tokens == NUM_TOKENS
        return await session.close()


def in_clear(job: str) -> str:
    return json.dumps(
        {"type": "session_closed", "session_id": job, "tokens_proven": 8, "settles_in": 0}
    )


async def forge_a_close(line: Line) -> None:
    """What anybody on the path of ws:// can say before the host does."""
    await line.shout(in_clear(str(line.job_id)))


async def replay_a_close(line: Line) -> None:
    """A payload of the host's, put into a frame of another kind."""
    payload = line.seal(
        "encrypted_response", ClosedPlaintext(tokens_proven=TokenCount(8), is_final=True).encode()
    )
    frame = {"type": "session_closed", "session_id": str(line.job_id), "id": line.id}
    await line.shout(json.dumps({**frame, "payload": payload.to_json()}))


async def forge_an_error(line: Line) -> None:
    error = {"type": "error", "code": "SESSION_NOT_ACTIVE", "message": "it is over"}
    await line.shout(json.dumps(error))


async def hang_up(line: Line) -> None:
    await line.socket.close()


async def claim_later(line: Line) -> None:
    """Sealed, but not the last word."""
    await line.close(ClosedPlaintext(tokens_proven=TokenCount(0), is_final=False))


@pytest.mark.parametrize(
    "on_close", [forge_a_close, replay_a_close, forge_an_error, hang_up, claim_later]
)
async def test_a_host_keeps_its_window_until_it_says_itself_that_it_claims_no_more(
    client: AsyncClient,
    offer: HostOffer,
    host: ScriptedHost,
    devnet: Devnet,
    on_close: Callable[[Line], Awaitable[None]],
) -> None:
    host.on_close = on_close

    settlement = await talk_and_close(client, offer)

    assert not settlement.is_settled
    assert await status_of(devnet, settlement) is SessionStatus.ACTIVE
    assert settlement.tokens_agreed == NUM_TOKENS
    assert settlement.waits_until is not None


async def test_a_close_that_the_chain_confirms_needs_nobodys_word(
    client: AsyncClient,
    offer: HostOffer,
    host: ScriptedHost,
    devnet: Devnet,
    queue: TransactionQueue,
) -> None:
    async def claim_and_hang_up(line: Line) -> None:
        call = devnet.contracts.marketplace.submit_proof(
            line.job_id, TokenCount(NUM_TOKENS), Hash32("0x" + "01" * 32), proof_cid="p"
        )
        await queue.send(f"claim:{line.job_id}", call)
        await line.socket.close()

    host.on_close = claim_and_hang_up

    settlement = await talk_and_close(client, offer)

    assert settlement.is_settled
    assert settlement.tokens_settled == settlement.tokens_agreed == NUM_TOKENS


async def test_a_host_that_claims_no_more_is_not_waited_for(
    client: AsyncClient, offer: HostOffer, host: ScriptedHost
) -> None:
    async def waive(line: Line) -> None:
        await line.close(ClosedPlaintext(tokens_proven=TokenCount(0), is_final=True))

    host.on_close = waive
    started = time.monotonic()

    settlement = await talk_and_close(client, offer)

    assert settlement.is_settled
    assert (settlement.tokens_settled, settlement.refund) == (0, DEPOSIT)
    assert time.monotonic() - started < 10


async def test_nobody_is_waited_for_longer_than_the_contract_lets_a_host_need(
    client: AsyncClient, offer: HostOffer, host: ScriptedHost, devnet: Devnet
) -> None:
    """It names a time 136 years ahead; the dispute window is over, so only the margin is left."""

    async def stall(line: Line) -> None:
        await increase_time(devnet.chain, 3600)
        closed = ClosedPlaintext(
            tokens_proven=TokenCount(0), is_final=True, settles_in=(1 << 32) - 1
        )
        await line.close(closed)

    host.on_close = stall
    started = time.monotonic()

    settlement = await talk_and_close(client, offer)

    assert settlement.is_settled
    assert time.monotonic() - started < situation.SETTLE_MARGIN + 10


async def test_frames_that_say_nothing_do_not_keep_a_close_waiting(
    client: AsyncClient,
    offer: HostOffer,
    host: ScriptedHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A frame comes twice in each of the renter's time-outs, for ever."""
    monkeypatch.setattr(session_module, "CLOSE_TIMEOUT", 1.0)

    async def drip(line: Line) -> None:
        proof = {
            "type": "proof_submitted",
            "session_id": str(line.job_id),
            "proof_id": "0x" + "00" * 32,
            "timestamp": 0,
        }
        while True:
            await line.shout(json.dumps(proof))
            await line.pause(0.5)

    host.on_close = drip
    started = time.monotonic()

    settlement = await talk_and_close(client, offer)

    assert not settlement.is_settled
    assert time.monotonic() - started < 10
