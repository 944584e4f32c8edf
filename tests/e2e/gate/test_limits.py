"""How much of a session is served, and how existing clients are served to the end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.e2e.gate.steps import (
    FORGIVING,
    PAYS_FOR_100,
    STORY,
    new_key,
    open_as_depositor,
    settled_as,
)
from tests.e2e.harness import (
    HostStarter,
    Wallet,
    check_money,
    wait_until_over,
)
from tests.e2e.raw_client import Answer, RawClient, Refused, open_raw_client

from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import TokenCount
from fabstir.protocol.client_messages import StreamCancel
from fabstir.protocol.exchange.account import MAX_LOST_TOKENS
from fabstir.protocol.host_messages import EncryptedChunk, EncryptedResponse, StreamEnd
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]


async def test_a_prompt_longer_than_the_context_is_refused_with_its_numbers(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    session = await open_as_depositor(client, job_id, wallet)

    with pytest.raises(Refused, match="TOKEN_LIMIT_EXCEEDED") as refused:
        await session.ask("word " * 1200)
    assert isinstance(end := await client.receive(), StreamEnd)
    answer = await session.ask("Hello", request_id="2")
    proven = await session.close()

    error = refused.value.error
    assert error.prompt_tokens is not None
    assert error.prompt_tokens >= 1200
    assert error.context_window_size == host.models[0]["max_model_len"] == 1024
    assert end.reason == "error"
    assert proven == answer.tokens
    await settled_as(devnet, wallet, job_id, answer.tokens)


@pytest.mark.parametrize("has_extension", [True, False], ids=["extension", "era-C"])
async def test_an_answer_stops_when_the_deposit_is_used_up(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, has_extension: bool
) -> None:
    job_id = await wallet.lock(host, price=PAYS_FOR_100, proof_interval=100)
    if has_extension:
        session = await open_as_depositor(client, job_id, wallet)
    else:
        session = await client.open(job_id, new_key())

    answer = await session.ask(STORY, max_tokens=300)
    with pytest.raises(Refused, match="DEPOSIT_EXHAUSTED"):
        await session.ask("Hello", request_id="2")
    await client.close()

    assert (answer.tokens, answer.finish_reason) == (100, "deposit_exhausted")
    job = await wait_until_over(devnet, job_id)
    assert job.refunded_to_user == 0
    await check_money(devnet, job_id, 100)


async def test_tokens_that_are_not_acknowledged_count_against_the_deposit(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host, price=PAYS_FOR_100, proof_interval=100)
    session = await open_as_depositor(client, job_id, wallet)
    first = await session.ask(STORY, max_tokens=60, acknowledges=lambda _receipt: False)

    second = await session.ask(STORY, request_id="2", max_tokens=60)
    proven = await session.close()

    assert (first.tokens, first.finish_reason) == (60, "length")
    assert (second.tokens, second.finish_reason) == (40, "deposit_exhausted")
    assert proven == 100
    await settled_as(devnet, wallet, job_id, 100)


async def test_a_renter_that_never_acknowledges_gets_one_window_and_pays_nothing(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    session = await open_as_depositor(client, job_id, wallet)

    answer = await session.ask(STORY, max_tokens=400, acknowledges=lambda _receipt: False)
    again = await session.ask("Hello", request_id="2", acknowledges=lambda _receipt: False)
    proven = await session.close()

    assert RECEIPT_INTERVAL_TOKENS < answer.tokens <= MAX_UNACKNOWLEDGED_TOKENS
    assert answer.finish_reason == "unacknowledged"
    assert answer.tokens + again.tokens <= MAX_UNACKNOWLEDGED_TOKENS
    assert proven == 0
    await settled_as(devnet, wallet, job_id, 0)


async def test_reconnecting_instead_of_acknowledging_is_served_only_so_often(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    session = await open_as_depositor(client, job_id, wallet)
    tokens = 0

    with pytest.raises(Refused, match="UNACKNOWLEDGED"):
        while tokens < 2 * MAX_LOST_TOKENS:
            answer = await session.ask(STORY, max_tokens=120, acknowledges=lambda _receipt: False)
            tokens += answer.tokens
            session = await open_as_depositor(client, job_id, wallet)
    proven = await session.close()

    assert MAX_LOST_TOKENS < tokens <= MAX_LOST_TOKENS + MAX_UNACKNOWLEDGED_TOKENS
    assert proven == 0
    await settled_as(devnet, wallet, job_id, 0)


async def test_acknowledgements_that_fit_no_receipt_are_refused(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    session = await open_as_depositor(client, job_id, wallet)
    answer = await session.ask("Hello", acknowledges=lambda _receipt: False)
    (receipt,) = answer.receipts
    more = replace(receipt, cumulative_tokens=TokenCount(receipt.cumulative_tokens + 1))

    codes: list[str] = []
    for forged in (
        session.acknowledgement(receipt, secret=new_key()),
        session.acknowledgement(more),
        session.acknowledgement(replace(receipt, job_id=JobId(job_id + 1))),
    ):
        await client.send(forged)
        codes.append((await client.expect_error()).code)
    await client.send(session.acknowledgement(receipt))
    proven = await session.close()

    assert codes == ["RECEIPT_MISMATCH"] * 3
    assert proven == answer.tokens
    await settled_as(devnet, wallet, job_id, answer.tokens)


async def test_an_era_c_client_is_served_to_the_end(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    key = wallet.signer.secret_key

    answers: list[Answer] = []
    for number, question in enumerate(("My name is Zoë. Hello! 👋", "What is my name?")):
        session = await client.open(job_id, key)  # its SDK opens anew before each message
        answers.append(await session.ask(question, request_id=str(number), max_tokens=40))
    await client.close()

    for answer in answers:
        chunks = [frame for frame in answer.frames if isinstance(frame, EncryptedChunk)]
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        assert [chunk.final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        kinds = [type(frame) for frame in answer.frames]
        assert kinds[-3:] == [EncryptedChunk, EncryptedResponse, StreamEnd]
        assert answer.end is not None
        assert answer.end.usage is not None
        assert answer.end.tokens_used == answer.end.usage.completion_tokens == answer.tokens > 0
        assert answer.finish_reason in {"stop", "length"}
        assert not answer.receipts
    prompts = [
        answer.end.usage.prompt_tokens for answer in answers if answer.end and answer.end.usage
    ]
    assert prompts[1] > prompts[0] + answers[0].tokens  # the first turn is in the second's prompt
    job = await wait_until_over(devnet, job_id)
    assert job.last_proof_cid
    await check_money(devnet, job_id, sum(answer.tokens for answer in answers))


async def test_an_era_c_answer_is_cancelled_by_its_own_socket_only_for_what_came(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    session = await client.open(job_id, new_key())
    await client.send(session.message(STORY, max_tokens=500))
    answer = await session.read(until_tokens=5)

    await client.send(StreamCancel(session_id=str(job_id), id="1"))
    rest = await session.read()
    await client.close()

    assert rest.end is not None
    assert (rest.end.reason, rest.finish_reason) == ("cancelled", "cancelled")
    await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, answer.tokens + rest.tokens)


async def test_an_era_c_client_that_leaves_in_the_middle_pays_what_it_was_sent(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    session = await client.open(job_id, new_key())
    await client.send(session.message(STORY, max_tokens=500))
    answer = await session.read(until_tokens=10)

    await client.close()

    job = await wait_until_over(devnet, job_id)
    assert 10 <= answer.tokens <= job.tokens_used < 500
    await check_money(devnet, job_id, job.tokens_used)


async def test_a_client_that_leaves_before_its_answer_or_its_refusal_disturbs_nobody(
    devnet: Devnet, start_host: HostStarter, wallet: Wallet
) -> None:
    key = new_key()
    async with start_host("forgiving", FORGIVING) as host:
        job_id = await wallet.lock(host)
        for prompt in ("word " * 1200, "Hello", STORY):
            async with open_raw_client(host, devnet) as leaving:
                session = await leaving.open(job_id, key)
                await leaving.send(session.message(prompt, max_tokens=50))
        async with open_raw_client(host, devnet) as client:
            answer = await (await client.open(job_id, key)).ask("Hello")
        job = await wait_until_over(devnet, job_id)

    assert answer.tokens > 0
    assert answer.tokens <= job.tokens_used <= answer.tokens + 100
    await check_money(devnet, job_id, job.tokens_used)
