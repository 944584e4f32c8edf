"""One host, two models: each renter gets the one that it paid for, whatever the other's engine
does."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import httpx
import pytest
from tests.e2e.harness import (
    DEPOSIT,
    PRICE_PER_MILLION,
    HostStarter,
    Renter,
    Wallet,
    check_money,
    descendants,
    eventually,
    logged,
    serve_and_fail,
)
from tests.e2e.models.conftest import SECOND_PRICE, TestModel
from tests.e2e.raw_client import Refused, open_raw_client

from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.primitives.errors import FabstirError
from fabstir.primitives.ids import NATIVE_TOKEN
from fabstir.primitives.units import TokenCount, price_from_million
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import AsyncClient, AsyncSession, ReceiptVerified
from fabstir.web.control import ask_running_host

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

IMPATIENT = {"host.reconnect_grace_seconds": "1"}
STORY = [Message("user", "Write a long story about a lighthouse keeper and the sea.")]


@pytest.fixture(scope="module")
async def host(
    start_host: HostStarter, second: TestModel, anyio_backend: str
) -> AsyncGenerator[HostProcess]:
    async with start_host("both", {"models": f"[{second.table()}]"}) as started:
        yield started


def some(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0)


async def digests_of_receipts(session: AsyncSession, max_tokens: int) -> tuple[set[str], int]:
    """Ask; returns the model digests of the receipts and how many tokens there were."""
    digests: set[str] = set()
    async with session.chat(STORY, sampling=some(max_tokens)) as answer:
        async for event in answer:
            if isinstance(event, ReceiptVerified):
                digests.add(event.receipt.work.model_digest)
    return digests, session.tokens


async def price_of(client: AsyncClient, model: TestModel) -> int:
    (offer,) = await client.find_hosts(model.name)
    return offer.price_per_million


async def test_each_renter_gets_the_model_that_it_asks_for(
    devnet: Devnet, host: HostProcess, renter: Renter, first: TestModel, second: TestModel
) -> None:
    paid: list[tuple[AsyncSession, int]] = []
    async with renter.open(host) as client:
        assert await price_of(client, first) == PRICE_PER_MILLION
        assert await price_of(client, second) == SECOND_PRICE
        for model in (first, second):
            (offer,) = await client.find_hosts(model.name)
            async with client.open_session(offer, deposit=DEPOSIT) as session:
                digests, tokens = await digests_of_receipts(session, 20)
                await session.close()
            assert digests == {model.spec.sha256}
            paid.append((session, tokens))
    async with httpx.AsyncClient() as http:
        listed = (await http.get(f"{host.api_url}/v1/models")).json()["models"]
        metrics = (await http.get(str(host.facts["metrics_url"]))).text

    assert [(each["id"], each["sha256"]) for each in listed] == [
        (model.model_id, model.spec.sha256) for model in (first, second)
    ]
    for (session, tokens), model in zip(paid, (first, second), strict=True):
        await check_money(devnet, session.job_id, tokens)
        assert f'fabstir_tokens_delivered_total{{model="{model.name}"}} {tokens}.0' in metrics
        assert f'fabstir_engine_ready{{model="{model.name}"}} 1.0' in metrics


async def engine_of(host: HostProcess, model: TestModel) -> int:
    """The process of the host that has the model's file in its memory."""

    async def look() -> int | None:
        for pid in descendants(host.process.pid):
            if str(model.path) in Path("/proc", str(pid), "maps").read_text():
                return pid
        return None

    return await eventually(look)


async def test_a_crash_of_one_engine_disturbs_no_session_of_the_other(
    host: HostProcess, renter: Renter, first: TestModel, second: TestModel
) -> None:
    async with renter.open(host) as client:
        (one,), (two,) = [await client.find_hosts(each.name) for each in (first, second)]
        async with (
            client.open_session(one, deposit=DEPOSIT) as undisturbed,
            client.open_session(two, deposit=DEPOSIT) as disturbed,
        ):
            async with undisturbed.chat(STORY, sampling=some(200)) as answer:
                await anext(answer)
                engine = await engine_of(host, second)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(fail_in_the_middle, disturbed, engine)
                    await answer.complete()
            told = await logged(host, "engine died: starting it again")
            await until_all_are_ready(host)
            digests, _ = await digests_of_receipts(disturbed, 8)
            tokens = undisturbed.tokens
            for session in (undisturbed, disturbed):
                await session.close()

    assert "WARNING" in told
    assert tokens > 100
    assert digests == {second.spec.sha256}


async def fail_in_the_middle(session: AsyncSession, engine: int) -> None:
    """Ask, kill the engine with the first piece, and be told."""
    with pytest.raises(FabstirError, match=r"ENGINE_CRASHED|died"):
        async with session.chat(STORY, sampling=some(600)) as answer:
            await anext(answer)
            os.kill(engine, signal.SIGKILL)
            await answer.complete()


async def until_all_are_ready(host: HostProcess) -> None:
    async def look() -> bool:
        status = await ask_running_host(host.data_dir, "status")
        return status is not None and set(status["models"].values()) == {"ready"}

    await eventually(look)


async def test_a_model_comes_and_goes_with_the_settings(
    devnet: Devnet,
    start_host: HostStarter,
    wallet: Wallet,
    first: TestModel,
    second: TestModel,
) -> None:
    nodes = devnet.contracts.nodes
    both = IMPATIENT | {"models": f"[{second.table()}]"}
    async with start_host("changes", IMPATIENT) as alone:
        assert await nodes.hosts_for(second.model_id) == [start_host.signer("both").address]
        await alone.stop()
    async with start_host("changes", both) as host:
        node = await nodes.node(host.account)
        assert node is not None
        assert set(node.models) == {first.model_id, second.model_id}
        price = price_from_million(SECOND_PRICE)
        assert await nodes.price(host.account, second.model_id, NATIVE_TOKEN) == price
        job_id = await wallet.lock(host, model=second.model_id, price=price)
        await host.stop()

    async with start_host("changes", IMPATIENT) as host, open_raw_client(host, devnet) as client:
        node = await nodes.node(host.account)
        assert node is not None
        assert node.models == (first.model_id,)
        with pytest.raises(Refused) as refused:
            await client.open(job_id, wallet.signer.secret_key)

    assert "WRONG_MODEL" in str(refused.value)
    assert f"it serves: {first.name} ({first.model_id})" in str(refused.value)
    await wallet.settle_now(job_id)
    await check_money(devnet, job_id, TokenCount(0))


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"file": "unheard-of.gguf"}, 2, "does not approve {repo}:unheard-of.gguf"),
        ({"sha256": "ab" * 32}, 2, "correct models[1].sha256"),
        ({"path": "{other}"}, 1, "has sha256 {other_digest}, but {digest} is expected"),
    ],
    ids=["unknown", "digest", "bytes"],
)
async def test_a_wrong_table_is_one_clear_sentence(
    start_host: HostStarter,
    first: TestModel,
    second: TestModel,
    tmp_path: Path,
    changes: dict[str, str],
    status: int,
    says: str,
) -> None:
    table = second.table(**{name: text.format(other=first.path) for name, text in changes.items()})
    settings = start_host.settings("fails") | {"models": f"[{table}]"}

    ended = await serve_and_fail(tmp_path, start_host.signer("fails"), settings)

    said = says.format(
        repo=second.spec.repo,
        digest=second.spec.sha256,
        other_digest=first.spec.sha256,
    )
    assert ended.status == status
    assert said in ended.said
