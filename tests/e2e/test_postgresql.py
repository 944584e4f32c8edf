"""Host and renter keep their journals on a PostgreSQL server, and are paid as on files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import anyio
import pytest
from tests.e2e.crashing import STORY, open_crashing_host
from tests.e2e.harness import DEPOSIT, HostStarter, Renter, check_money, eventually
from tests.postgresql import PostgresServer, open_server

from fabstir.chain.devnet import Devnet
from fabstir.config import DatabaseSettings
from fabstir.primitives.errors import HostUnresponsive
from fabstir.primitives.units import TokenCount
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import AsyncClient, AsyncSession, SessionSettlement, Text, open_async_client

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.needs("initdb")]


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """One that the test may stop."""
    with open_server() as opened:
        yield opened


async def test_a_session_is_paid_though_its_host_is_killed_and_its_database_stops(
    devnet: Devnet, start_host: HostStarter, renter: Renter, server: PostgresServer
) -> None:
    url = f"postgresql://fabstir@127.0.0.1:{server.port}/fabstir"
    settings = {"database.url": url, "database.schema": "paid"}
    async with open_crashing_host(devnet, start_host, "on a server", settings) as host:
        chosen = replace(
            await renter.settings(host.process), database=DatabaseSettings(url=url, schema="paid")
        )
        async with open_async_client(chosen) as client:
            (offer,) = await client.find_hosts()
            async with client.open_session(offer, deposit=DEPOSIT) as session:
                await ask(session, 10)
                await anyio.to_thread.run_sync(server.stop)
                await anyio.to_thread.run_sync(server.start)
                await ask(session, 10)
                async with anyio.create_task_group() as tasks:
                    seen = anyio.Event()
                    tasks.start_soon(ask_until_dead, session, seen)
                    await seen.wait()
                    await host.kill()
                await host.start()
                await ask(session, 10)
                await session.close()
            settlement = await settled(client, session)

        agreed = settlement.tokens_agreed
        assert agreed >= 30 + 64, "a receipt of the answer that broke off, too"
        assert settlement.tokens_settled == agreed
        assert settlement.host_paid + settlement.fee + settlement.refund == DEPOSIT
        await check_money(devnet, session.job_id, agreed)
        booked = (
            f"SELECT state, tokens_settled FROM paid_host.host_sessions "
            f"WHERE job_id = {session.job_id}"
        )
        await eventually(lambda: is_said(server, booked, f"settled|{agreed}"))
        assert int(server.sql("SELECT count(*) FROM paid_renter.renter_receipts")) >= 4
        for folder in (host.process.data_dir, chosen.paths.data_dir):
            assert list(folder.glob("*.sqlite")) == []


async def ask(session: AsyncSession, num_tokens: int, seen: anyio.Event | None = None) -> None:
    """Have an answer, and set `seen` once the renter has agreed to a part of it."""
    sampling = SamplingParams(max_tokens=TokenCount(num_tokens), temperature=0)
    num_had = 0
    async with session.chat([Message("user", STORY)], sampling=sampling) as answer:
        async for event in answer:
            num_had += event.num_tokens if isinstance(event, Text) else 0
            if seen is not None and num_had > 100:
                seen.set()


async def ask_until_dead(session: AsyncSession, seen: anyio.Event) -> None:
    with pytest.raises(HostUnresponsive):
        await ask(session, 900, seen)


async def settled(client: AsyncClient, session: AsyncSession) -> SessionSettlement:
    """Once the renter's journal says that it is over."""

    async def look() -> SessionSettlement | None:
        await client.recover()
        settlement = await client.close_session(session.id)
        return settlement if settlement.is_settled else None

    return await eventually(look, interval=0.1)


async def is_said(server: PostgresServer, statement: str, expected: str) -> bool:
    return await anyio.to_thread.run_sync(server.sql, statement) == expected
