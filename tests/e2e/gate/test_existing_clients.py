"""What the genuine client does in ordinary use, and must be served or told in a form it reads."""

from __future__ import annotations

import json
import secrets

import pytest
from tests.anvil import increase_time
from tests.e2e.gate.steps import FORGIVING, new_key
from tests.e2e.harness import HostStarter, Wallet, check_money, session_of, wait_until_over
from tests.e2e.raw_client import RawClient, Refused, open_raw_client

from fabstir.chain.contracts import SessionStatus
from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import Json
from fabstir.protocol.client_messages import EncryptedMessage
from fabstir.protocol.envelope import NONCE_BYTES, seal_payload
from fabstir.protocol.host_messages import ErrorMessage, StreamEnd

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]


async def test_a_message_that_names_another_session_is_for_the_one_whose_key_it_has(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    first, second = await wallet.lock(host), await wallet.lock(host)
    await client.open(first, new_key())
    meant = await client.open(second, new_key())
    message = meant.message("Hello", request_id="7")

    await client.send(EncryptedMessage(session_id=str(first), id="7", payload=message.payload))
    answer = await meant.read(request_id="7")
    await client.send(EncryptedMessage(session_id="99999", id="8", payload=message.payload))
    replayed = await client.expect_error()
    await client.close()

    assert answer.tokens > 0
    assert replayed.code == "REPLAYED_MESSAGE"
    await wait_until_over(devnet, second)
    await check_money_of(devnet, wallet, first, second, answer.tokens)


async def check_money_of(
    devnet: Devnet, wallet: Wallet, unused: int, used: int, tokens: int
) -> None:
    await wallet.settle_now(unused)  # pyright: ignore[reportArgumentType] - a number of the chain
    assert (await session_of(devnet, unused)).tokens_used == 0  # pyright: ignore[reportArgumentType] - likewise
    await check_money(devnet, used, tokens)  # pyright: ignore[reportArgumentType] - likewise


async def test_a_message_that_no_key_of_the_socket_opens_is_refused(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    ours, theirs = await wallet.lock(host), await wallet.lock(host)
    await client.open(ours, new_key())
    session = await stranger.open(theirs, new_key())

    await client.send(session.message("Hello"))
    refused = await client.expect_error()

    assert refused.code == "NOT_AUTHENTICATED"


@pytest.mark.parametrize(
    "inner",
    [
        {"action": "image_generation", "prompt": "Draw me a cat"},
        {"prompt": "What is this?", "images": [{"data": "aGk=", "format": "png"}]},
        {"prompt": "Hello", "tools": [{"type": "function"}]},
        {"prompt": "Hello", "response_format": {"type": "json_object"}},
    ],
    ids=["action", "images", "tools", "response format"],
)
async def test_what_is_not_text_is_refused_before_it_is_billed(
    devnet: Devnet,
    host: HostProcess,
    wallet: Wallet,
    client: RawClient,
    inner: dict[str, Json],
) -> None:
    job_id, key = await wallet.lock(host), new_key()
    init = client.make_init(job_id, key)
    session = await client.send_init(init, key)
    nonce = secrets.token_bytes(NONCE_BYTES)
    payload = seal_payload(
        init.session_key, nonce, b"message_0", json.dumps(inner).encode(), NATIVE
    )

    await client.send(EncryptedMessage(session_id=str(job_id), id="1", payload=payload))
    refused, end = await client.receive(), await client.receive()
    answer = await session.ask("Hello", request_id="2", max_tokens=4)
    await client.close()

    assert isinstance(refused, ErrorMessage)
    assert refused.code == "UNSUPPORTED_REQUEST"
    assert isinstance(end, StreamEnd)
    assert (end.id, end.reason, end.tokens_used) == ("1", "error", 0)
    await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, answer.tokens)


async def test_a_pause_longer_than_the_window_ends_no_session_whose_socket_is_open(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    paused, other = await wallet.lock(host, proof_window=300), await wallet.lock(host)
    session = await client.open(paused, wallet.signer.secret_key)
    first = await session.ask("Hello", max_tokens=4)
    await increase_time(devnet.chain, 540)

    # Another session that is settled meanwhile shows that the host has looked at both.
    await (await stranger.open(other, wallet.signer.secret_key)).ask("Hello", max_tokens=4)
    await stranger.close()
    await wait_until_over(devnet, other)
    session = await client.open(paused, wallet.signer.secret_key)
    second = await session.ask("Hello again", request_id="2", max_tokens=4)
    await client.close()

    assert second.tokens > 0
    job = await wait_until_over(devnet, paused)
    assert job.status is SessionStatus.COMPLETED
    await check_money(devnet, paused, first.tokens + second.tokens)


async def test_a_host_that_was_started_again_says_that_it_has_forgotten(
    devnet: Devnet, start_host: HostStarter, wallet: Wallet
) -> None:
    secret = wallet.signer.secret_key
    async with start_host("forgetful", FORGIVING) as host:
        job_id = await wallet.lock(host)
        async with open_raw_client(host, devnet) as client:
            session = await client.open(job_id, secret)
            first = await session.ask("My name is Zoë.", max_tokens=8)
            await host.kill()
    async with start_host("forgetful", FORGIVING) as host, open_raw_client(host, devnet) as client:
        session = await client.open(job_id, secret)
        with pytest.raises(Refused, match="SESSION_NOT_FOUND") as refused:
            await session.ask("What is my name?", request_id="2")
        assert isinstance(await client.receive(), StreamEnd)
        session = await client.open(job_id, secret)
        whole = await session.ask("My name is Zoë. What is it?", request_id="3", max_tokens=8)
        await client.close()
        await wait_until_over(devnet, job_id)

    assert "whole conversation" in refused.value.error.message
    await check_money(devnet, job_id, first.tokens + whole.tokens)


async def test_a_whole_conversation_is_answered_also_by_a_host_that_was_started_again(
    devnet: Devnet, start_host: HostStarter, wallet: Wallet
) -> None:
    secret = wallet.signer.secret_key
    chatml = (
        "<|im_start|>user\nMy name is Zoë.<|im_end|>\n<|im_start|>assistant\nHello Zoë.<|im_end|>\n"
        "<|im_start|>user\nWhat is my name?<|im_end|>\n<|im_start|>assistant\n"
    )
    async with start_host("bridged", FORGIVING) as host:
        job_id = await wallet.lock(host)
        async with open_raw_client(host, devnet) as client:
            first = await (await client.open(job_id, secret)).ask("Hello", max_tokens=8)
            await host.kill()
    async with start_host("bridged", FORGIVING) as host, open_raw_client(host, devnet) as client:
        second = await (await client.open(job_id, secret)).ask(chatml, max_tokens=8)
        await client.close()
        await wait_until_over(devnet, job_id)

    assert second.tokens > 0
    await check_money(devnet, job_id, first.tokens + second.tokens)
