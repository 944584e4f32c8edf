"""The gate of /v1/ws: what is refused is refused by name, and nothing of it is ever billed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.e2e.harness import (
    DEPOSIT,
    HostStarter,
    Wallet,
    check_money,
    funded,
    open_wallet,
    wait_until_over,
)
from tests.e2e.raw_client import Answer, OpenedSession, RawClient, Refused, open_raw_client

from fabstir.chain.cheats import increase_time, mine, set_automine
from fabstir.chain.contracts import NodeRegistration
from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.crypto import NATIVE
from fabstir.jobs.session import MAX_LOST_TOKENS
from fabstir.primitives.ids import NATIVE_TOKEN, Address, JobId
from fabstir.primitives.units import PRICE_PRECISION, PricePerToken, TokenCount
from fabstir.protocol.client_messages import EncryptedClose, EncryptedMessage, Ping, StreamCancel
from fabstir.protocol.envelope import seal_payload
from fabstir.protocol.frames import Frame
from fabstir.protocol.host_messages import EncryptedChunk, EncryptedResponse, Pong, StreamEnd
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.payloads import ExtensionOffer

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

STORY = "Write a long story about a lighthouse keeper and the sea."

PAYS_FOR_100 = PricePerToken(DEPOSIT * PRICE_PRECISION // 100)
"""So dear that the deposit pays for 100 tokens."""

IMPATIENT = {
    "host.reconnect_grace_seconds": "0.5",
    "host.acknowledgement_timeout_seconds": "2",
}


@pytest.fixture(scope="module")
async def host(start_host: HostStarter, anyio_backend: str) -> AsyncGenerator[HostProcess]:
    async with start_host("host", IMPATIENT) as started:
        yield started


@pytest.fixture
async def client(host: HostProcess, devnet: Devnet) -> AsyncGenerator[RawClient]:
    async with open_raw_client(host, devnet) as opened:
        yield opened


@pytest.fixture
async def stranger(host: HostProcess, devnet: Devnet) -> AsyncGenerator[RawClient]:
    """Another socket, of somebody who knows what the depositor's looks like from outside."""
    async with open_raw_client(host, devnet) as opened:
        yield opened


def new_key() -> bytes:
    return secrets.token_bytes(32)


async def open_as_depositor(client: RawClient, job_id: JobId, wallet: Wallet) -> OpenedSession:
    """As our SDK does it."""
    key = new_key()
    offer = client.authorize(job_id, wallet.signer.secret_key, key)
    return await client.open(job_id, key, offer=offer)


async def refusal(client: RawClient, job_id: JobId, key: bytes, **init: object) -> str:
    """The code with which the host refuses a handshake."""
    with pytest.raises(Refused) as refused:
        await client.send_init(client.make_init(job_id, key, **init), key)  # pyright: ignore[reportArgumentType] - the names are make_init's
    return refused.value.code


async def settled_as(
    devnet: Devnet, wallet: Wallet, job_id: JobId, tokens: int, *, unused: JobId | None = None
) -> None:
    """The depositor ends it; on chain are `tokens` and every unit of money.

    Args:
        unused: another session of the wallet, to which nothing may be billed.
    """
    if unused is not None:
        await wallet.settle_now(unused)
    await wallet.settle_now(job_id)
    await check_money(devnet, job_id, tokens)
    if unused is not None:
        await check_money(devnet, unused, 0)


# -- whose session it is ----------------------------------------------------------------------


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
    marketplace = devnet.contracts.marketplace
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


# -- which session it is ----------------------------------------------------------------------


async def test_a_handshake_must_mean_one_job_on_one_chain(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id, other = await wallet.lock(host), await wallet.lock(host)
    key = new_key()
    offer = client.authorize(job_id, wallet.signer.secret_key, key)

    codes = [
        await refusal(client, job_id, key, inner_job_id=other),
        await refusal(client, job_id, key, offer=offer, inner_job_id=other),
        await refusal(client, job_id, key, offer=offer, context=b"fabstir/1|bound|to|nothing"),
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


# -- nothing counts twice ---------------------------------------------------------------------


@pytest.mark.parametrize("has_extension", [True, False], ids=["extension", "era-C"])
async def test_a_handshake_counts_once(
    devnet: Devnet,
    host: HostProcess,
    wallet: Wallet,
    client: RawClient,
    stranger: RawClient,
    has_extension: bool,
) -> None:
    job_id = await wallet.lock(host)
    key = new_key()
    offer = client.authorize(job_id, wallet.signer.secret_key, key) if has_extension else None
    init = client.make_init(job_id, key, offer=offer)
    session = await client.send_init(init, key)

    for socket in (stranger, client):
        with pytest.raises(Refused, match="REPLAYED_INIT"):
            await socket.send_init(init, key)
    answer = await session.ask("Hello")
    await client.close()

    await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, answer.tokens)


async def test_a_handshake_counts_once_also_after_a_restart(
    devnet: Devnet, start_host: HostStarter, wallet: Wallet
) -> None:
    key = new_key()
    async with (
        start_host("restarted", IMPATIENT) as before,
        open_raw_client(before, devnet) as client,
    ):
        job_id = await wallet.lock(before)
        offer = client.authorize(job_id, wallet.signer.secret_key, key)
        init = client.make_init(job_id, key, offer=offer)
        session = await client.send_init(init, key)
        answer = await session.ask("Hello")
        await client.send(Ping())
        while not isinstance(await client.receive(), Pong):  # what came before it is booked
            continue

        await before.kill()

    async with (
        start_host("restarted", IMPATIENT) as after,
        open_raw_client(after, devnet) as client,
    ):
        with pytest.raises(Refused, match=r"REPLAYED_INIT|SESSION_NOT_ACTIVE"):
            await client.send_init(init, key)
        await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, answer.tokens)


@pytest.mark.parametrize("has_extension", [True, False], ids=["extension", "era-C"])
async def test_a_message_counts_once(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, has_extension: bool
) -> None:
    job_id = await wallet.lock(host)
    if has_extension:
        session = await open_as_depositor(client, job_id, wallet)
    else:
        session = await client.open(job_id, new_key())
    message = session.message("Hello")
    await client.send(message)
    answer = await session.read()

    codes: list[str] = []
    for frame in (message, reflected(answer.frames[0], job_id)):
        await client.send(frame)
        codes.append((await client.expect_error()).code)
    await client.close()

    assert codes == ["REPLAYED_MESSAGE", "REPLAYED_MESSAGE" if not has_extension else codes[1]]
    assert codes[1] in {"REPLAYED_MESSAGE", "DECRYPTION_FAILED"}
    await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, answer.tokens)


def reflected(frame: object, job_id: JobId) -> Frame:
    """A chunk of the host's own, sent back to it as a request."""
    assert isinstance(frame, EncryptedChunk)
    return EncryptedMessage(session_id=str(job_id), id="2", payload=frame.payload)


# -- sockets and frames -----------------------------------------------------------------------


async def test_nobody_else_can_cancel_close_ask_or_acknowledge(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    job_id = await wallet.lock(host)
    own_job = await wallet.lock(host)
    session = await open_as_depositor(client, job_id, wallet)
    strange = await stranger.open(own_job, new_key())  # in order, but with a job of its own
    await client.send(session.message(STORY, max_tokens=200))
    seen = await session.read(until_tokens=1)
    sealed = strange.seal("", "", b"{}")
    name = str(job_id)

    codes: list[str] = []
    for frame in (
        StreamCancel(session_id=name, id="1"),
        EncryptedClose(session_id=name, id="1", payload=sealed),
        EncryptedMessage(session_id=name, id="1", payload=sealed),
    ):
        await stranger.send(frame)
        codes.append((await stranger.expect_error()).code)
    answer = await session.read()
    proven = await session.close()

    assert codes == ["NOT_AUTHENTICATED"] * 3
    assert answer.finish_reason == "length"
    assert seen.tokens + answer.tokens == proven == 200
    await settled_as(devnet, wallet, job_id, 200, unused=own_job)


async def test_a_session_answers_one_request_at_a_time(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    session = await client.open(job_id, new_key())
    await client.send(session.message(STORY, max_tokens=120))
    first = await session.read(until_tokens=1)

    await client.send(session.message("And another", request_id="2"))
    with pytest.raises(Refused, match="BUSY") as refused:
        while True:
            first.tokens += (await session.read(until_tokens=1)).tokens
    rest = await session.read()
    await client.close()

    assert refused.value.error.id == "2"
    assert first.tokens + rest.tokens == 120
    await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, 120)


async def test_plaintext_and_garbage_are_answered_with_errors(
    client: RawClient, host: HostProcess
) -> None:
    sent: dict[str | bytes, str] = {
        '{"type":"session_init","session_id":"1","job_id":1}': "ENCRYPTION_REQUIRED",
        '{"type":"prompt","session_id":"1","prompt":"hi"}': "ENCRYPTION_REQUIRED",
        '{"type":"inference","prompt":"hi"}': "ENCRYPTION_REQUIRED",
        '{"type":"dance"}': "UNSUPPORTED_MESSAGE",
        '{"type":"encrypted_message"}': "MISSING_SESSION_ID",
        '{"type":"encrypted_message","session_id":"1"}': "MISSING_PAYLOAD",
        '{"type":"encrypted_message","session_id":"1","payload":{}}': "MISSING_PAYLOAD_FIELDS",
        '{"type":5}': "INVALID_PAYLOAD",
        "": "INVALID_PAYLOAD",
        "not json": "INVALID_PAYLOAD",
        "[" * 100_000: "INVALID_PAYLOAD",
        b"\xff\xfe": "INVALID_UTF8",
    }

    codes: list[str] = []
    for data in sent:
        await client.send_data(data)
        codes.append((await client.expect_error()).code)
    await client.send(Ping())

    assert codes == list(sent.values())
    assert await client.receive() == Pong()


async def test_what_does_not_decrypt_is_refused_and_costs_nothing(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    session = await open_as_depositor(client, job_id, wallet)
    message = session.message("Hello")
    payload = message.payload
    altered = replace(payload, ciphertext=bytes(len(payload.ciphertext)))
    unbound = replace(payload, aad=b"of another frame")

    codes: list[str] = []
    for wrong in (altered, unbound):
        await client.send(EncryptedMessage(session_id=str(job_id), id="1", payload=wrong))
        codes.append((await client.expect_error()).code)
    await client.send(message)
    answer = await session.read()
    proven = await session.close()

    assert codes == ["DECRYPTION_FAILED"] * 2
    assert proven == answer.tokens > 0
    await settled_as(devnet, wallet, job_id, answer.tokens)


async def test_handshakes_and_messages_under_another_key_are_refused(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    job_id = await wallet.lock(host)
    stranger.host_key = NATIVE.public_key(new_key())
    session = await client.open(job_id, new_key())
    sealed = seal_payload(new_key(), secrets.token_bytes(24), b"message", b"{}", NATIVE)

    code = await refusal(stranger, job_id, new_key())
    await client.send(EncryptedMessage(session_id=str(job_id), id="1", payload=sealed))
    error = await client.expect_error()
    answer = await session.ask("Hello")
    await client.close()

    assert (code, error.code) == ("DECRYPTION_FAILED", "DECRYPTION_FAILED")
    await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, answer.tokens)


# -- how much of it ---------------------------------------------------------------------------


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
    assert error.context_window_size == host.facts["max_model_len"] == 1024
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
    tokens = 0

    with pytest.raises(Refused, match="UNACKNOWLEDGED"):
        while tokens < 2 * MAX_LOST_TOKENS:
            session = await open_as_depositor(client, job_id, wallet)
            answer = await session.ask(STORY, max_tokens=120, acknowledges=lambda _receipt: False)
            tokens += answer.tokens
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


# -- era-C's own way --------------------------------------------------------------------------


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
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    job_id = await wallet.lock(host)
    key = new_key()
    for prompt in ("word " * 1200, "Hello", STORY):
        async with open_raw_client(host, devnet) as leaving:
            session = await leaving.open(job_id, key)
            await leaving.send(session.message(prompt, max_tokens=50))

    session = await client.open(job_id, key)
    answer = await session.ask("Hello")
    await client.close()

    assert answer.tokens > 0
    job = await wait_until_over(devnet, job_id)
    assert answer.tokens <= job.tokens_used <= answer.tokens + 100
    await check_money(devnet, job_id, job.tokens_used)


# -- last, because it moves the chain's clock ---------------------------------------------------


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
    await wait_until_over(devnet, job_id)
    await check_money(devnet, job_id, 0)
