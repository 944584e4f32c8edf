"""A host whose chain answers nonsense: it goes on, and ends with its money."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.integration.chain.altering_rpc import Answer, mostly_nonsense, open_altering_rpc
from tests.integration.sdk.conftest import chain_settings, make_home

from fabstir.chain.devnet import Devnet
from fabstir.node.build import open_host
from fabstir.node.registration import RegistrationPlan
from fabstir.primitives.units import Wei
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import AsyncSession, open_async_client

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

LONG = [Message("user", "Count from 1 to 100, separated by commas.")]


async def test_nonsense_from_the_chain_ends_no_host(
    devnet: Devnet, demo_model: Path, tmp_path: Path
) -> None:
    nonsense, is_odd, num_asked = mostly_nonsense(), False, 0

    def alter(method: str, params: list[Any], answer: Answer) -> Answer:
        nonlocal num_asked
        num_asked += is_odd
        return nonsense(method, params, answer) if is_odd else answer

    async def confirm(_plan: RegistrationPlan) -> bool:
        return True

    async with open_altering_rpc(devnet.rpc_url, alter) as url:
        of_host = {"host.port": "0", "p2p.port": "0", "metrics.port": "0", "s5.port": "0"}
        of_host |= {"model.path": str(demo_model), "chain.rpc_url": url}
        of_host |= {"engine.num_threads": "1", "engine.num_batch_threads": "1"}
        home = await make_home(
            tmp_path / "host", devnet.accounts[0], {**chain_settings(devnet), **of_host}
        )
        async with open_host(home, confirm=confirm, on_progress=lambda _what, _state: None) as host:
            bootstrap = {"p2p.bootstrap": host.p2p.addresses[0]}
            mine = await make_home(
                tmp_path / "renter", devnet.accounts[1], {**chain_settings(devnet), **bootstrap}
            )
            async with open_async_client(mine) as client:
                offers = await client.find_hosts(payment_token=client.token("eth").address)
                async with client.open_session(offers[0], deposit=Wei(10**15)) as session:
                    # A host that cannot learn what a session is for refuses it; once it has
                    # admitted one, it needs the chain no more until the money is due.
                    await ask(session, 20)
                    is_odd = True
                    await ask(session, 200)
                    with anyio.fail_after(30):
                        while num_asked < 100:
                            await anyio.sleep(0.05)
                    is_odd = False
                    settlement = await session.close()

    assert settlement.is_settled
    assert settlement.tokens_settled == settlement.tokens_agreed > 0


async def ask(session: AsyncSession, max_tokens: int) -> None:
    """Ask the long question and read the whole answer."""
    async with session.chat(LONG, sampling=SamplingParams(max_tokens=max_tokens)) as answer:
        async for _ in answer:
            pass
