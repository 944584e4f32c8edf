"""Whose session it is, and which: refused by name, and nothing of it is ever billed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.anvil import increase_time, mine, set_automine
from tests.contract_calls import marketplace_calls
from tests.e2e.gate.steps import (
    STORY,
    new_key,
    open_as_depositor,
    refusal,
    settled_as,
)
from tests.e2e.harness import (
    Wallet,
    check_money,
    funded,
    open_wallet,
    wait_until_over,
)
from tests.e2e.raw_client import RawClient, Refused

from fabstir.chain.contracts import NodeRegistration
from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.primitives.ids import NATIVE_TOKEN, Address, JobId
from fabstir.protocol.limits import RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.payloads import ExtensionOffer

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]


async def test_a_stranger_before_the_depositor_is_evicted_and_never_billed(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    job_id = await wallet.lock(host)
    strange = await stranger.open(job_id, new_key())
    used = await strange.ask("Hello", max_tokens=12)

    session = await open_as_depositor(client, job_id, wallet)
    evicted = await stranger.expect_error()
    await stranger.send(strange.message("Hello again", request_id="2"))
    afterwards = await stranger.expect_error()
    answer = await session.ask("Hello", max_tokens=5)
    proven = await session.close()

    assert used.tokens > 0
    assert (evicted.code, evicted.session_id) == ("SESSION_EVICTED", str(job_id))
    assert afterwards.code == "NOT_AUTHENTICATED"
    assert session.terms is not None
    assert session.terms.cumulative_tokens == 0
    assert proven == answer.tokens > 0
    await settled_as(devnet, wallet, job_id, answer.tokens)


async def test_a_stranger_is_evicted_in_the_middle_of_an_answer(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    job_id = await wallet.lock(host)
    strange = await stranger.open(job_id, new_key())
    await stranger.send(strange.message(STORY, max_tokens=600))
    await strange.read(until_tokens=RECEIPT_INTERVAL_TOKENS + 1)

    session = await open_as_depositor(client, job_id, wallet)
    with pytest.raises(Refused, match="SESSION_EVICTED"):
        await strange.read()
    proven = await session.close()

    assert proven == 0
    await settled_as(devnet, wallet, job_id, 0)


async def test_strangers_after_the_depositor_are_refused_and_change_nothing(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    job_id = await wallet.lock(host)
    session = await open_as_depositor(client, job_id, wallet)
    await client.send(session.message(STORY, max_tokens=100))
    key = new_key()

    codes = [
        await refusal(stranger, job_id, key),
        await refusal(stranger, job_id, key, offer=ExtensionOffer(authorization=None)),
        await refusal(stranger, job_id, key, offer=stranger.authorize(job_id, key, key)),
    ]
    answer = await session.read()
    proven = await session.close()

    assert codes == ["SESSION_PINNED", "NOT_DEPOSITOR", "NOT_DEPOSITOR"]
    assert (answer.finish_reason, answer.tokens, proven) == ("length", 100, 100)
    await settled_as(devnet, wallet, job_id, 100)


async def test_the_first_of_two_unproven_keys_keeps_the_session(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    job_id = await wallet.lock(host)
    first = await client.open(job_id, new_key())

    code = await refusal(stranger, job_id, new_key())
    answer = await first.ask("Hello")
    await client.close()

    assert code == "SESSION_PINNED"
    await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, answer.tokens)


@pytest.mark.parametrize("speaks", ["the extension", "era-C"])
async def test_a_delegate_on_chain_speaks_for_the_depositor(
    devnet: Devnet,
    host: HostProcess,
    wallet: Wallet,
    client: RawClient,
    stranger: RawClient,
    speaks: str,
) -> None:
    delegate = await funded(devnet, f"delegate of {wallet.signer.address}")
    marketplace = marketplace_calls(devnet)
    await wallet.send(marketplace.authorize_delegate(delegate.address, authorized=True))
    job_id = await wallet.lock(host)
    await stranger.open(job_id, new_key())
    key = new_key() if speaks == "the extension" else delegate.secret_key
    offer = (
        client.authorize(job_id, delegate.secret_key, key) if key != delegate.secret_key else None
    )

    session = await client.open(job_id, key, offer=offer)
    evicted = await stranger.expect_error()
    answer = await session.ask("Hello")
    await client.close()

    assert evicted.code == "SESSION_EVICTED"
    await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, answer.tokens)


async def test_authorizations_that_do_not_fit_are_refused_by_name(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    key, owner = new_key(), wallet.signer.secret_key
    elsewhere = Address("0x" + "11" * 20)
    next_job = JobId(job_id + 1)

    codes = {
        "expired": client.authorize(job_id, owner, key, expires_in=-1),
        "reaches too far": client.authorize(job_id, owner, key, expires_in=31 * 86_400),
        "by somebody else": client.authorize(job_id, new_key(), key),
        "for another key": client.authorize(job_id, owner, new_key()),
        "for another host": client.authorize(job_id, owner, key, host=elsewhere),
        "for another job": client.authorize(next_job, owner, key),
    }
    refused = {
        name: await refusal(client, job_id, key, offer=offer) for name, offer in codes.items()
    }

    assert refused == {
        "expired": "AUTHORIZATION_EXPIRED",
        "reaches too far": "AUTHORIZATION_EXPIRED",
        "by somebody else": "NOT_DEPOSITOR",
        "for another key": "NOT_DEPOSITOR",
        "for another host": "JOB_MISMATCH",
        "for another job": "JOB_MISMATCH",
    }
    await settled_as(devnet, wallet, job_id, 0)


async def test_a_handshake_must_mean_one_job_on_one_chain(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id, other = await wallet.lock(host), await wallet.lock(host)
    key = new_key()
    offer = client.authorize(job_id, wallet.signer.secret_key, key)

    codes = [
        await refusal(client, job_id, key, inner_job_id=other),
        await refusal(client, job_id, key, offer=offer, inner_job_id=other),
        await refusal(client, job_id, key, offer=offer, context=b"fabstir/2|bound|to|nothing"),
        await refusal(client, job_id, key, chain_id=8453),
    ]

    assert codes == ["JOB_MISMATCH", "JOB_MISMATCH", "JOB_MISMATCH", "WRONG_CHAIN"]
    await settled_as(devnet, wallet, job_id, 0, unused=other)


async def test_jobs_that_are_not_this_hosts_to_serve_are_refused(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, tmp_path: Path
) -> None:
    foreign = await wallet.lock(host, to=await register_another_host(devnet, host, tmp_path))
    over = await wallet.lock(host)
    await wallet.settle_now(over)
    key = new_key()

    codes = [
        await refusal(client, foreign, key),
        await refusal(client, over, key),
        await refusal(client, JobId(10**6), key),
        await refusal(client, JobId(2**200), key),
    ]

    assert codes == [
        "WRONG_HOST",
        "SESSION_NOT_ACTIVE",
        "SESSION_NOT_FOUND",
        "SESSION_NOT_FOUND",
    ]
    await settled_as(devnet, wallet, foreign, 0)


async def register_another_host(devnet: Devnet, host: HostProcess, folder: Path) -> Address:
    """Somebody in the registry who serves the same model, and is not running."""
    contracts, signer = devnet.contracts, devnet.accounts[-1]
    ours = await contracts.nodes.node(host.account)
    assert ours is not None
    registration = NodeRegistration(
        metadata=ours.metadata,
        api_url="http://127.0.0.1:1",
        models=ours.models,
        min_price_native=ours.min_price_native,
        min_price_stable=ours.min_price_stable,
    )
    async with open_wallet(devnet, signer, folder) as theirs:
        await theirs.send(contracts.fab.approve(contracts.nodes.address, ours.staked_amount))
        await theirs.send(contracts.nodes.register(registration))
        price = ours.min_price_native
        await theirs.send(contracts.nodes.set_price(ours.models[0], NATIVE_TOKEN, price))
    return signer.address


async def test_a_session_past_its_time_is_refused(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host, max_duration=600, proof_window=3600)
    await set_automine(devnet.chain, enabled=False)  # else the host ends it first
    try:
        await increase_time(devnet.chain, 601)

        code = await refusal(client, job_id, new_key())
    finally:
        await set_automine(devnet.chain, enabled=True)
        await mine(devnet.chain)

    assert code == "SESSION_EXPIRED"
    await settled_as(devnet, wallet, job_id, 0)  # by its depositor: it owes the host nothing
