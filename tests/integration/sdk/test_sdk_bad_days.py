"""Hosts and renters die in the middle: nothing stays locked, no loss exceeds the stated one."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from tests.anvil import increase_time
from tests.integration.sdk.conftest import chain_settings, make_home
from tests.integration.sdk.host_process import HostProcess, open_host_process
from tests.integration.sdk.waiting import settled

from fabstir.chain.devnet import Devnet
from fabstir.config import Settings
from fabstir.primitives.errors import HostUnresponsive
from fabstir.primitives.units import Wei, cost_of
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import AsyncSession, ReceiptVerified, open_async_client

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.slow]

DEPOSIT = Wei(10**15)
LONG = [Message("user", "Write a long story about a lighthouse.")]
HELLO = [Message("user", "Say hello.")]


@pytest.fixture(scope="module")
async def host_home(devnet: Devnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host") / "home"
    await make_home(folder, devnet.accounts[0], {})
    return folder


@pytest.fixture
def host_overrides(devnet: Devnet, demo_model: Path, host_home: Path) -> dict[str, str]:
    return {
        **chain_settings(devnet),
        "paths.data_dir": str(host_home / "data"),
        "host.port": "0",
        "p2p.port": "0",
        "metrics.port": "0",
        "s5.port": "0",
        "model.path": str(demo_model),
        "engine.num_threads": "1",
        "engine.num_batch_threads": "1",
    }


@pytest.fixture
async def host(host_home: Path, host_overrides: dict[str, str]) -> AsyncGenerator[HostProcess]:
    async with open_host_process(host_home, host_overrides) as running:
        yield running


@pytest.fixture
async def renter_settings(devnet: Devnet, host: HostProcess, tmp_path: Path) -> Settings:
    bootstrap = {"p2p.bootstrap": host.p2p_address}
    return await make_home(
        tmp_path / "renter", devnet.accounts[1], {**chain_settings(devnet), **bootstrap}
    )


async def stream_until_first_receipt_then(session: AsyncSession, act: Callable[[], None]) -> float:
    """Returns the seconds between the act and the error that it caused."""
    acted_at = 0.0
    with pytest.raises(HostUnresponsive) as caught:
        async with session.chat(LONG, sampling=SamplingParams(max_tokens=3000)) as answer:
            async for event in answer:
                if isinstance(event, ReceiptVerified) and not acted_at:
                    act()
                    acted_at = time.monotonic()
    text = str(caught.value)
    assert session.info.host in text
    assert "its last frame came" in text
    assert f"{session.tokens} tokens" in text
    assert "The rest of the deposit" in text
    return time.monotonic() - acted_at


async def test_a_host_that_is_killed_is_noticed_and_settles_after_its_restart(
    renter_settings: Settings, host: HostProcess, host_home: Path, host_overrides: dict[str, str]
) -> None:
    async with open_async_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            noticed_after = await stream_until_first_receipt_then(
                session, lambda: host.send(signal.SIGKILL)
            )
            async with open_host_process(host_home, host_overrides):
                settlement = await session.close()  # at its new port, from the registry

    assert noticed_after < 5
    assert settlement.tokens_settled == settlement.tokens_agreed == session.tokens > 0
    assert settlement.refund == DEPOSIT - cost_of(session.tokens, offer.price_per_token)
    assert settlement.refund + settlement.host_paid + settlement.fee == DEPOSIT


async def test_a_stopped_host_is_noticed_and_the_session_goes_on_when_it_wakes(
    renter_settings: Settings, host: HostProcess
) -> None:
    async with open_async_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            noticed_after = await stream_until_first_receipt_then(
                session, lambda: host.send(signal.SIGSTOP)
            )
            tokens = session.tokens
            host.send(signal.SIGCONT)
            async with session.chat(HELLO, sampling=SamplingParams(max_tokens=8)) as answer:
                await answer.complete()
            settlement = await session.close()

    assert noticed_after < 15
    assert answer.end is not None
    assert settlement.tokens_settled == tokens + answer.end.num_completion_tokens


async def test_a_killed_host_that_never_returns_keeps_its_window_and_then_loses_its_claim(
    renter_settings: Settings, host: HostProcess, devnet: Devnet
) -> None:
    async with open_async_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            await stream_until_first_receipt_then(session, lambda: host.send(signal.SIGKILL))
            waiting = await session.close()
        await increase_time(devnet.chain, session.info.proof_window + 1)
        settlement = await settled(client, session)

    assert not waiting.is_settled
    assert waiting.tokens_agreed == session.tokens > 0
    assert waiting.waits_until is not None
    assert settlement.outcome == "timed out"
    assert (settlement.tokens_settled, settlement.refund) == (0, DEPOSIT)
