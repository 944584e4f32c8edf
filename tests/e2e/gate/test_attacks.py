"""What a renter may try to be served for nothing, or to cost the host more than it pays."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import TaskStatus
from tests.anvil import increase_time, mine, revert_to, snapshot
from tests.e2e.gate.steps import (
    PAYS_FOR_100,
    STORY,
    new_key,
    open_as_depositor,
    refusal,
    settled_as,
)
from tests.e2e.harness import (
    HostStarter,
    Wallet,
    check_money,
    funded,
    open_wallet,
    session_of,
    wait_until_over,
)
from tests.e2e.raw_client import RawClient, Refused, open_raw_client

from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.crypto import NATIVE
from fabstir.primitives.ids import JobId
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

OWN_BOUND = 256
"""`host.max_unproven_tokens`, which these hosts leave as it is."""


async def test_going_back_to_the_dialect_without_proof_gains_nothing(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    job_id, key = await wallet.lock(host), new_key()
    offer = client.authorize(job_id, wallet.signer.secret_key, key)
    tokens = 0

    for _ in range(3):
        session = await client.open(job_id, key, offer=offer)
        tokens += (await session.ask("Hello", max_tokens=12)).tokens
        assert await refusal(client, job_id, key) == "SESSION_PINNED"
        assert await refusal(stranger, job_id, key) == "SESSION_PINNED"
    session = await client.open(job_id, key, offer=offer)
    proven = await session.close()

    assert session.terms is not None
    assert session.terms.cumulative_tokens == proven == tokens > 0
    await settled_as(devnet, wallet, job_id, tokens)


async def test_a_key_that_was_pinned_and_then_proven_keeps_what_it_owes(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id, key = await wallet.lock(host), new_key()
    unproven = await client.open(job_id, key)
    first = await unproven.ask("Hello", max_tokens=12)

    offer = client.authorize(job_id, wallet.signer.secret_key, key)
    session = await client.open(job_id, key, offer=offer)
    second = await session.ask("Hello", max_tokens=12)
    proven = await session.close()

    assert proven == first.tokens + second.tokens
    await settled_as(devnet, wallet, job_id, proven)


async def test_a_new_key_for_each_window_is_served_only_so_often(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    """What a session lost is the session's, not its key's."""
    job_id = await wallet.lock(host)
    tokens = 0

    with pytest.raises(Refused, match="UNACKNOWLEDGED"):
        while tokens < 2000:
            session = await open_as_depositor(client, job_id, wallet)
            answer = await session.ask(STORY, max_tokens=120, acknowledges=lambda _receipt: False)
            tokens += answer.tokens

    assert tokens <= 5 * MAX_UNACKNOWLEDGED_TOKENS
    await settled_as(devnet, wallet, job_id, 0)


async def test_the_renters_interval_does_not_set_the_hosts_risk(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host, proof_interval=5_000_000)
    session = await open_as_depositor(client, job_id, wallet)
    agreed = 0
    for number in range(3):
        answer = await session.ask(STORY, request_id=str(number), max_tokens=250)
        agreed += answer.tokens

    await wallet.settle_now(job_id)

    job = await session_of(devnet, job_id)
    assert agreed > 2 * OWN_BOUND
    assert agreed - job.tokens_used <= OWN_BOUND


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"proof_interval": 1}, "interval"),
        ({"max_duration": 10}, "60 s"),
        ({"deposit": 10**14, "price": PAYS_FOR_100, "proof_interval": 1}, "interval"),
    ],
    ids=["interval", "duration", "dust"],
)
async def test_sessions_below_the_hosts_own_terms_are_refused_at_the_gate(
    devnet: Devnet,
    host: HostProcess,
    wallet: Wallet,
    client: RawClient,
    terms: dict[str, int],
    says: str,
) -> None:
    job_id = await wallet.lock(host, **terms)  # pyright: ignore[reportArgumentType] - units of the harness

    with pytest.raises(Refused, match="TERMS_REFUSED") as refused:
        await client.open(job_id, new_key())

    assert says in refused.value.error.message
    assert "SESSION_NOT" not in refused.value.error.message  # a bridge would open the same again
    await settled_as(devnet, wallet, job_id, 0)


async def test_nothing_is_spent_on_sessions_that_nobody_used(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    unused = [await wallet.lock(host, proof_window=60) for _ in range(3)]
    before = await devnet.chain.nonce(host.account)
    await increase_time(devnet.chain, 120)

    job_id = await wallet.lock(host)
    session = await client.open(job_id, wallet.signer.secret_key)
    answer = await session.ask("Hello")
    await client.close()
    await wait_until_over(devnet, job_id)

    # Its claim and its end, and nothing for those that ran out before.
    assert await devnet.chain.nonce(host.account) == before + 2
    for each in unused:
        await wallet.settle_now(each)
    await check_money(devnet, job_id, answer.tokens)


async def test_an_evicted_strangers_recovery_key_opens_nothing_of_the_depositors(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    job_id, strange = await wallet.lock(host), new_key()
    init = stranger.make_init(job_id, strange, recovery_public_key=NATIVE.public_key(new_key()))
    await (await stranger.send_init(init, strange)).ask("Hello", max_tokens=5)

    session = await open_as_depositor(client, job_id, wallet)  # names no recovery key
    await session.ask("My secret word is lighthouse.", max_tokens=5)
    await session.close()

    async with httpx.AsyncClient(base_url=host.api_url, trust_env=False) as http:
        index = (await http.get(f"/v1/checkpoints/{job_id}")).json()
        (entry,) = index["checkpoints"]
        assert not entry.get("encrypted")
        delta = (await http.get(f"/s5/blob/{entry['deltaCid']}")).json()
    assert delta["messages"] == []
    await settled_as(devnet, wallet, job_id, (await session_of(devnet, job_id)).tokens_used)


async def test_after_a_reorg_a_number_is_whose_the_chain_says(
    devnet: Devnet,
    host: HostProcess,
    wallet: Wallet,
    client: RawClient,
    stranger: RawClient,
    tmp_path: Path,
) -> None:
    former = await funded(devnet, f"before the reorg of {wallet.signer.address}")
    before = await snapshot(devnet.chain)
    async with open_wallet(devnet, former, tmp_path) as other:
        job_id = await other.lock(host)
        session = await open_as_depositor(stranger, job_id, other)
        await session.ask("Hello", max_tokens=12)

    await revert_to(devnet.chain, before)
    await mine(devnet.chain, 3)
    assert await wallet.lock(host) == job_id
    ours = await open_as_depositor(client, job_id, wallet)
    offer = stranger.authorize(job_id, former.secret_key, new_key())
    refused = await refusal(stranger, job_id, new_key(), offer=offer)
    answer = await ours.ask("Hello", max_tokens=5)
    proven = await ours.close()

    assert refused == "NOT_DEPOSITOR"
    assert ours.terms is not None
    assert ours.terms.cumulative_tokens == 0
    assert proven == answer.tokens > 0
    await settled_as(devnet, wallet, job_id, answer.tokens)


# -- clients that read nothing -----------------------------------------------------------------


async def test_clients_that_read_nothing_stop_nobody(
    devnet: Devnet, start_host: HostStarter, wallet: Wallet
) -> None:
    """More than the engine has slots, and more than are settled side by side."""
    served = 0
    async with start_host("unread") as host:
        others = [await wallet.lock(host) for _ in range(20)]
        job_id = await wallet.lock(host)
        async with anyio.create_task_group() as tasks:
            for other in others:
                await tasks.start(keep_from_reading, host, devnet, other)
            served = await serve_and_stop(host, devnet, wallet, job_id, stranger_in=others[-1])
            tasks.cancel_scope.cancel()

    assert served > 0
    for each in (job_id, *others):
        await wallet.settle_now(each)
    assert (await session_of(devnet, job_id)).tokens_used == served


async def serve_and_stop(
    host: HostProcess, devnet: Devnet, wallet: Wallet, job_id: JobId, *, stranger_in: JobId
) -> int:
    """An honest renter's whole session, an eviction, and the host's end; returns its tokens."""
    with anyio.fail_after(90):
        async with open_raw_client(host, devnet) as client:
            session = await open_as_depositor(client, job_id, wallet)
            answer = await session.ask("Hello", max_tokens=8)
            proven = await session.close()
        async with open_raw_client(host, devnet) as client:
            session = await open_as_depositor(client, stranger_in, wallet)
            await session.ask("Hello", max_tokens=8)
        assert proven == answer.tokens
        assert await host.stop() == 0
    return answer.tokens


async def keep_from_reading(
    host: HostProcess,
    devnet: Devnet,
    job_id: JobId,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Ask for a long answer, and for so many refusals that they fill any buffer; read nothing."""
    async with open_raw_client(host, devnet) as client:
        session = await client.open(job_id, new_key())
        client.stop_reading()
        try:
            for number in range(100):
                await client.send(session.message(STORY, request_id=str(number), max_tokens=900))
            task_status.started()
            await anyio.sleep_forever()
        finally:
            client.drop()
