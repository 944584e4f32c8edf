"""Nothing counts twice, and no frame counts on somebody else's connection."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace

import pytest
from tests.e2e.gate.steps import (
    IMPATIENT,
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
    wait_until_over,
)
from tests.e2e.raw_client import RawClient, Refused, open_raw_client

from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.crypto import NATIVE
from fabstir.primitives.ids import JobId
from fabstir.protocol.client_messages import EncryptedClose, EncryptedMessage, Ping, StreamCancel
from fabstir.protocol.envelope import seal_payload
from fabstir.protocol.frames import Frame
from fabstir.protocol.host_messages import EncryptedChunk, Pong, Unknown

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]


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


async def test_nobody_else_can_cancel_close_ask_or_acknowledge(
    devnet: Devnet, host: HostProcess, wallet: Wallet, client: RawClient, stranger: RawClient
) -> None:
    job_id = await wallet.lock(host)
    own_job = await wallet.lock(host)
    session = await open_as_depositor(client, job_id, wallet)
    await stranger.open(own_job, new_key())  # in order, but with a job of its own
    await client.send(session.message(STORY, max_tokens=200))
    seen = await session.read(until_tokens=1)
    sealed = seal_payload(new_key(), secrets.token_bytes(24), b"message", b"{}", NATIVE)
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
        "[" * 60_000: "INVALID_PAYLOAD",
        b"\xff\xfe": "INVALID_UTF8",
    }

    codes: list[str] = []
    for data in sent:
        await client.send_data(data)
        codes.append((await client.expect_error()).code)
    for kind in ("uploadVectors", "searchVectors", "searchRequest"):
        await client.send_data(json.dumps({"type": kind, "session_id": "1", "requestId": "r"}))
    typed = [await client.receive() for _ in range(5)]
    await client.send(Ping())

    assert codes == list(sent.values())
    assert typed == [
        Unknown("uploadVectorsResponse"),
        Unknown("searchVectorsResponse"),
        Unknown("searchError"),
        Unknown("searchResponse"),
        Unknown("searchResults"),
    ]
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
