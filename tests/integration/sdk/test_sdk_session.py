"""A renter's sessions at a real host, from finding it to the refund."""

from __future__ import annotations

import anyio
import pytest

from fabstir.chain.devnet import Devnet
from fabstir.config import Settings
from fabstir.db.renter import RenterState
from fabstir.node.build import Host
from fabstir.primitives.errors import (
    ConfigError,
    ContextLengthExceeded,
    DepositExhausted,
    InsufficientFunds,
    LocalProtocolError,
    ModelMissing,
    SpendingCapReached,
    TransactionReverted,
)
from fabstir.primitives.ids import NATIVE_TOKEN
from fabstir.primitives.units import TokenCount, Wei, cost_of
from fabstir.protocol.content import Message
from fabstir.protocol.limits import RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import (
    AsyncClient,
    AsyncSession,
    Finished,
    HostOffer,
    ReceiptVerified,
    Text,
    open_async_client,
    open_holdings,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

DEPOSIT = Wei(10**15)
HELLO = [Message("user", "Say hello.")]
LONG = [Message("user", "Write a long story about a lighthouse.")]


def at_most(num_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=num_tokens)


async def best_offer(client: AsyncClient, name: str = "eth") -> HostOffer:
    offers = await client.find_hosts(payment_token=client.token(name).address)
    return offers[0]


async def stop_after_first_receipt(session: AsyncSession) -> None:
    async with session.chat(LONG, sampling=at_most(400)) as answer:
        async for event in answer:
            if isinstance(event, ReceiptVerified):
                return


async def test_hosts_are_found_and_checked_against_the_chain(
    client: AsyncClient, host: Host
) -> None:
    (model,) = await client.models()
    offers = await client.find_hosts(model.name)

    assert [offer.host for offer in offers] == [host.market.signer.address]
    assert offers[0].api_url == host.api_url
    assert offers[0].max_model_len == 4096
    assert 0 < offers[0].latency < 5


@pytest.mark.parametrize(("token", "deposit"), [("eth", 10**15), ("usdc", 10**6)])
async def test_a_session_is_paid_for_exactly_what_was_delivered(
    client: AsyncClient, devnet: Devnet, host: Host, token: str, deposit: int
) -> None:
    offer = await best_offer(client, token)
    before = {b.token.address: b.wallet for b in await client.balances()}
    earned_before = await devnet.contracts.earnings.balance(offer.host, offer.token.address)

    async with client.open_session(offer, deposit=Wei(deposit)) as session:
        async with session.chat(LONG, sampling=at_most(150)) as answer:
            events = [event async for event in answer]
        settlement = await session.close()

    tokens = sum(event.num_tokens for event in events if isinstance(event, Text))
    receipts = [event for event in events if isinstance(event, ReceiptVerified)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.num_completion_tokens == tokens
    assert finished.num_prompt_tokens == receipts[-1].receipt.work.num_prompt_tokens
    assert len(receipts) == -(-tokens // RECEIPT_INTERVAL_TOKENS)
    assert settlement.is_settled
    assert settlement.tokens_settled == settlement.tokens_agreed == tokens
    cost = cost_of(TokenCount(tokens), offer.price_per_token)
    assert (settlement.refund, settlement.host_paid + settlement.fee) == (deposit - cost, cost)
    earned = await devnet.contracts.earnings.balance(offer.host, offer.token.address)
    assert earned - earned_before == settlement.host_paid
    after = {b.token.address: b for b in await client.balances()}
    assert all(balance.locked == 0 for balance in after.values())
    if offer.token.address != NATIVE_TOKEN:
        assert before[offer.token.address] - after[offer.token.address].wallet == cost


async def test_a_session_answers_one_request_at_a_time(client: AsyncClient) -> None:
    async with client.open_session(await best_offer(client), deposit=DEPOSIT) as session:
        async with session.chat(HELLO, sampling=at_most(8)) as answer:
            with pytest.raises(LocalProtocolError, match="one request at a time"):
                async with session.chat(HELLO):
                    pass
            await answer.complete()

        settlement = await session.close()

    assert settlement.tokens_settled == settlement.tokens_agreed > 0


async def test_leaving_an_answer_early_cancels_it_and_keeps_both_sides_agreed(
    client: AsyncClient,
) -> None:
    async with client.open_session(await best_offer(client), deposit=DEPOSIT) as session:
        await stop_after_first_receipt(session)
        after_cancel = session.tokens
        async with session.chat(HELLO, sampling=at_most(8)) as answer:
            await answer.complete()
        settlement = await session.close()

    assert RECEIPT_INTERVAL_TOKENS <= after_cancel < 400
    assert answer.end is not None
    assert settlement.tokens_settled == after_cancel + answer.end.num_completion_tokens


async def test_a_connection_that_was_dropped_is_opened_again_after_the_last_receipt(
    client: AsyncClient,
) -> None:
    async with client.open_session(await best_offer(client), deposit=DEPOSIT) as session:
        await stop_after_first_receipt(session)
        tokens = session.tokens
        await session.leave()
        async with session.chat(HELLO, sampling=at_most(8)) as answer:
            await answer.complete()
        assert answer.end is not None
        settlement = await session.close()

    assert settlement.tokens_settled == tokens + answer.end.num_completion_tokens


async def test_a_session_goes_on_in_another_process_of_the_same_renter(
    renter_settings: Settings,
) -> None:
    async with open_async_client(renter_settings) as first:
        offer = await best_offer(first)
        async with first.open_session(offer, deposit=DEPOSIT) as session:
            await stop_after_first_receipt(session)
            tokens, job_id = session.tokens, str(session.job_id)

    async with (
        open_async_client(renter_settings) as second,
        second.resume_session(job_id) as session,
    ):
        async with session.chat(HELLO, sampling=at_most(8)) as answer:
            await answer.complete()
        settlement = await session.close()

    assert answer.end is not None
    assert settlement.tokens_settled == tokens + answer.end.num_completion_tokens


async def test_a_session_is_closed_by_its_number(client: AsyncClient) -> None:
    async with client.open_session(await best_offer(client), deposit=DEPOSIT) as session:
        await stop_after_first_receipt(session)

    settlement = await client.close_session(str(session.job_id))

    assert settlement.is_settled
    assert settlement.tokens_settled == session.tokens


async def test_closing_now_does_not_wait_for_the_host(client: AsyncClient) -> None:
    async with client.open_session(await best_offer(client), deposit=DEPOSIT) as session:
        await stop_after_first_receipt(session)

    settlement = await client.close_session(session.id, now=True)

    assert settlement.is_settled
    assert settlement.tokens_agreed == session.tokens
    assert settlement.refund + settlement.host_paid + settlement.fee == DEPOSIT


async def test_a_prompt_longer_than_the_context_costs_nothing(client: AsyncClient) -> None:
    async with client.open_session(await best_offer(client), deposit=DEPOSIT) as session:
        with pytest.raises(ContextLengthExceeded, match="holds 4096"):
            async with session.chat([Message("user", "word " * 6000)]) as answer:
                await answer.complete()
        async with session.chat(HELLO, sampling=at_most(4)) as answer:
            await answer.complete()
        settlement = await session.close()

    assert answer.end is not None
    assert settlement.tokens_settled == answer.end.num_completion_tokens


async def test_an_answer_stops_when_the_deposit_is_used_up(client: AsyncClient) -> None:
    offer = await best_offer(client, "usdc")
    deposit = Wei(500_000)
    affordable = (await client.quote(offer, deposit)).max_tokens

    async with client.open_session(offer, deposit=deposit) as session:
        async with session.chat(LONG, sampling=SamplingParams(max_tokens=400, seed=5)) as answer:
            await answer.complete()
        with pytest.raises(DepositExhausted, match="used up"):
            async with session.chat(HELLO) as refused:
                await refused.complete()
        settlement = await session.close()

    assert answer.end is not None
    assert answer.end.finish_reason == "deposit_exhausted"
    assert answer.end.num_completion_tokens == affordable == 100
    assert settlement.tokens_settled == affordable
    assert settlement.refund == 0


async def test_a_model_that_is_not_approved_is_named_with_those_that_are(
    client: AsyncClient,
) -> None:
    with pytest.raises(ModelMissing, match="SmolLM2"):
        await client.find_hosts("a-model-that-nobody-knows")


async def test_deposits_beyond_the_wallet_are_refused_before_anything_is_sent(
    client: AsyncClient,
) -> None:
    offer = await best_offer(client)

    with pytest.raises(InsufficientFunds):
        await client.quote(offer, Wei(10**24))


async def test_a_deposit_that_leaves_no_coins_for_gas_is_refused(client: AsyncClient) -> None:
    offer = await best_offer(client)
    held = (await client.balances())[0].wallet

    with pytest.raises(InsufficientFunds, match=r" ETH and needs .* ETH: send it at least") as poor:
        await client.quote(offer, held)

    assert poor.value.available == held
    assert poor.value.needed > held


async def test_balances_and_sessions_are_read_beside_an_answer(
    client: AsyncClient, renter_settings: Settings
) -> None:
    offer = await best_offer(client)

    async with client.open_session(offer, deposit=DEPOSIT) as session:
        async with session.chat(LONG, sampling=at_most(100)) as answer:
            while not isinstance(await anext(answer), ReceiptVerified):
                pass
            async with open_holdings(renter_settings) as holdings:
                (row,) = await holdings.sessions()
                locked = (await holdings.balances())[0].locked
        await session.close()

    assert (row.state, locked) == (RenterState.OPEN, DEPOSIT)
    assert row.tokens_agreed > 0


async def test_a_deposit_below_the_contracts_minimum_locks_nothing(client: AsyncClient) -> None:
    offer = await best_offer(client)

    with pytest.raises(TransactionReverted, match="Deposit too small"):
        async with client.open_session(offer, deposit=Wei(10**10)):
            pass

    (row,) = await client.sessions()
    assert row.state is RenterState.FAILED
    assert (await client.balances())[0].locked == 0


async def test_a_deposit_that_pays_for_no_token_is_refused(client: AsyncClient) -> None:
    with pytest.raises(ConfigError, match="pays for no token"):
        await client.quote(await best_offer(client), Wei(1))


async def test_the_spending_cap_counts_every_session_that_is_not_settled(
    client: AsyncClient,
) -> None:
    offer = await best_offer(client)
    cap = Wei(10**17)
    most = Wei(cap - DEPOSIT)
    async with client.open_session(offer, deposit=most) as session:
        with pytest.raises(SpendingCapReached, match=r"renter\.spending_cap_native"):
            async with client.open_session(offer, deposit=Wei(DEPOSIT + 1)):
                pass
        async with client.open_session(offer, deposit=DEPOSIT) as second:
            await second.close()
        settlement = await session.close()

    assert settlement.refund == most


async def test_two_deposits_in_a_token_at_a_time_do_not_undo_each_other(
    client: AsyncClient,
) -> None:
    offer = await best_offer(client, "usdc")
    opened: list[AsyncSession] = []

    async def open_one() -> None:
        async with client.open_session(offer, deposit=Wei(10**6)) as session:
            opened.append(session)
            await session.close()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(open_one)

    assert len({session.job_id for session in opened}) == 3
    assert all(session.info.refund == 10**6 for session in opened)


async def test_an_error_in_the_apps_own_block_comes_out_as_itself(
    renter_settings: Settings,
) -> None:
    with pytest.raises(ModelMissing):
        async with open_async_client(renter_settings) as client:
            await client.find_hosts("a-model-that-nobody-knows")
