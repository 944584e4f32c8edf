"""What a hostile host, or anybody on the path of ws://, can make a renter take or wait for."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from tests.integration.sdk.scripted_host import Line, ScriptedHost, open_scripted_host
from tests.unit.protocol.exchange.answering import DIGEST, DOMAIN, FACTS, HOST_SECRET, asking_for
from websockets.exceptions import ConnectionClosed

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import (
    FabstirError,
    HostUnresponsive,
    ReceiptMismatch,
    RemoteProtocolError,
    SessionRefused,
)
from fabstir.protocol.authorization import SessionKeyAuthorization
from fabstir.protocol.exchange.budget import BYTES_PER_TOKEN, FREE_BYTES, HANDSHAKE_BYTES
from fabstir.protocol.exchange.handshake import Introduction
from fabstir.protocol.exchange.renter import RenterExchange
from fabstir.protocol.exchange.verification import SessionFacts, Verified
from fabstir.protocol.limits import MAX_HOST_FRAME_BYTES, MAX_TOKEN_TEXT_BYTES
from fabstir.protocol.receipts import ChainHead, SignedAcknowledgement
from fabstir.protocol.request import RequestPlaintext
from fabstir.sdk import answer as answer_module
from fabstir.sdk import connection as connection_module
from fabstir.sdk.answer import AsyncAnswerStream
from fabstir.sdk.bounded_socket import MAX_UNREAD_BYTES
from fabstir.sdk.connection import HostConnection, open_connection
from fabstir.sdk.websocket import WebSocketDialer
from fabstir.web.reach import Reach

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SESSION_SECRET = bytes([9]) * 32
WALLET_SECRET = bytes([6]) * 32
FOUR_TOKENS = asking_for(4)
SOCKET_BUFFERS = 8 << 20
"""What the kernel takes of a sender on loopback before anybody reads it."""


@pytest.fixture
async def host() -> AsyncGenerator[ScriptedHost]:
    scripted = ScriptedHost(
        secret=HOST_SECRET,
        encryption_secret=bytes([5]) * 32,
        domain=DOMAIN,
        model_digest=DIGEST,
        price=FACTS.price_per_token,
    )
    async with open_scripted_host(scripted):
        yield scripted


@pytest.fixture
def facts(host: ScriptedHost) -> SessionFacts:
    return replace(FACTS, host=host.address)


def introduction(host: ScriptedHost, facts: SessionFacts) -> Introduction:
    authorization = SessionKeyAuthorization(
        job_id=facts.job_id,
        host=facts.host,
        session_key=NATIVE.address_of(NATIVE.public_key(SESSION_SECRET)),
        expires_at=int(time.time()) + 600,
    )
    return Introduction(
        host_public_key=host.public_key,
        model_name="repo:file",
        session_secret=SESSION_SECRET,
        recovery_public_key=NATIVE.public_key(SESSION_SECRET),
        authorization=authorization.sign(WALLET_SECRET, DOMAIN, NATIVE),
        last_acknowledgement=None,
    )


@asynccontextmanager
async def connected(host: ScriptedHost, facts: SessionFacts) -> AsyncGenerator[HostConnection]:
    exchange = RenterExchange(facts, ChainHead())
    greeting = exchange.greet(introduction(host, facts), lambda size: bytes([4]) * size)
    dialer = WebSocketDialer(Reach(allow_private=True))
    stream = await dialer.dial(host.api_url, f"host {facts.host} at {host.api_url}")
    async with open_connection(stream, exchange, greeting) as connection:
        yield connection


async def agree(verified: Verified) -> SignedAcknowledgement:
    return verified.acknowledgement.sign(SESSION_SECRET, DOMAIN, NATIVE)


@asynccontextmanager
async def asked(
    host: ScriptedHost, facts: SessionFacts, request: RequestPlaintext = FOUR_TOKENS
) -> AsyncGenerator[AsyncAnswerStream]:
    """A request is on its way; nothing of its answer is read yet."""
    async with connected(host, facts) as connection:
        await connection.send(connection.exchange.ask(request))
        verifier = connection.exchange.verifier
        assert verifier is not None
        yield AsyncAnswerStream(connection, verifier, facts, agree)


async def until_cut(line: Line, say: Callable[[Line], Awaitable[None]]) -> int:
    """Say it again and again, at most a gigabyte. Returns how often, before the renter hung up."""
    for times in range(1 << 20):
        try:
            await say(line)
        except ConnectionClosed:
            return times
    raise AssertionError("the renter took everything")


PONG = json.dumps({"type": "pong"})
PADDED = json.dumps({"type": "pong", "padding": "x" * (MAX_HOST_FRAME_BYTES - 64)})


# -- what it takes ------------------------------------------------------------------------------


async def free_text(line: Line) -> None:
    await line.deliver("x" * 60_000)


async def nothing_at_all(line: Line) -> None:
    await line.deliver("")


async def pongs(line: Line) -> None:
    await line.shout(PONG)


async def padded_pongs(line: Line) -> None:
    await line.shout(PADDED)


async def strange_frames(line: Line) -> None:
    await line.shout(json.dumps({"type": "from a later version"}))


async def mined_claims(line: Line) -> None:
    claim = {"type": "proof_submitted", "session_id": "9", "proof_id": "0x" + "00" * 32}
    await line.shout(json.dumps({**claim, "timestamp": 0}))


async def errors_of_others(line: Line) -> None:
    await line.shout(json.dumps({"type": "error", "code": "BUSY", "id": "another"}))


async def frames_too_large(line: Line) -> None:
    await line.shout(json.dumps({"type": "pong", "padding": "x" * MAX_HOST_FRAME_BYTES}))


@pytest.mark.parametrize(
    "say",
    [
        free_text,
        nothing_at_all,
        pongs,
        padded_pongs,
        strange_frames,
        mined_claims,
        errors_of_others,
        frames_too_large,
    ],
)
async def test_a_host_that_delivers_no_token_is_soon_read_no_further(
    host: ScriptedHost, facts: SessionFacts, say: Callable[[Line], Awaitable[None]]
) -> None:
    cut = anyio.Event()

    async def flood(line: Line) -> None:
        await until_cut(line, say)
        cut.set()

    host.answer = flood
    started = time.monotonic()

    async with asked(host, facts) as answer:
        with pytest.raises(RemoteProtocolError):
            await answer.complete()
    with anyio.fail_after(10):
        await cut.wait()

    assert answer.text == ""
    assert time.monotonic() - started < 10


async def test_four_tokens_bring_no_more_text_than_four_tokens_can_have(
    host: ScriptedHost, facts: SessionFacts
) -> None:
    async def flood(line: Line) -> None:
        await line.deliver("Hello", [1, 2, 3, 4])
        await until_cut(line, lambda line: line.deliver("x" * 100))

    host.answer = flood

    async with asked(host, facts) as answer:
        with pytest.raises(RemoteProtocolError, match="no token has more than 512"):
            await answer.complete()

    assert len(answer.text) <= 4 * MAX_TOKEN_TEXT_BYTES


# -- what it holds ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, MAX_HOST_FRAME_BYTES - 64], ids=["small", "large"])
async def test_a_host_that_sends_ahead_of_a_slow_app_is_cut_before_it_fills_the_memory(
    host: ScriptedHost, facts: SessionFacts, size: int
) -> None:
    """The app reads nothing meanwhile; the window of an honest host fits many times."""
    frame = json.dumps({"type": "pong", "padding": "x" * (size - 64)})
    sent: list[int] = []
    is_stuck = anyio.Event()

    async def flood(line: Line) -> None:
        with anyio.move_on_after(3):
            sent.append(await until_cut(line, lambda line: line.shout(frame)))
        is_stuck.set()

    host.answer = flood

    async with asked(host, facts) as answer:
        with anyio.fail_after(10):
            await is_stuck.wait()
        with pytest.raises(RemoteProtocolError):
            await answer.complete()

    for times in sent:
        assert times * size < MAX_UNREAD_BYTES + SOCKET_BUFFERS


async def test_an_app_may_be_slow_to_read_an_honest_answer(
    host: ScriptedHost, facts: SessionFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own pauses are not the host's silence."""
    monkeypatch.setattr(answer_module, "FIRST_TOKEN_TIMEOUT", 0.5)
    monkeypatch.setattr(answer_module, "PROGRESS_TIMEOUT", 0.5)
    is_sent = anyio.Event()

    async def answer_at_once(line: Line) -> None:
        await line.deliver("Hello", [1, 2])
        await line.deliver(" there", [3, 4])
        await line.receipt()
        await line.end()
        is_sent.set()

    host.answer = answer_at_once

    async with asked(host, facts) as answer:
        await is_sent.wait()
        events: list[object] = []
        async for event in answer:
            await anyio.sleep(0.6)
            events.append(event)

    assert answer.text == "Hello there"
    assert len(events) == 4


# -- what it waits for ----------------------------------------------------------------------------


@pytest.mark.parametrize("say", [nothing_at_all, pongs, mined_claims, errors_of_others])
async def test_frames_that_bring_nothing_buy_no_time(
    host: ScriptedHost,
    facts: SessionFacts,
    monkeypatch: pytest.MonkeyPatch,
    say: Callable[[Line], Awaitable[None]],
) -> None:
    monkeypatch.setattr(answer_module, "FIRST_TOKEN_TIMEOUT", 1.0)
    monkeypatch.setattr(answer_module, "PROGRESS_TIMEOUT", 1.0)

    async def drip(line: Line) -> None:
        await line.deliver("Hello", [1])

        async def say_and_pause(line: Line) -> None:
            await say(line)
            await line.pause(0.2)

        await until_cut(line, say_and_pause)

    host.answer = drip
    started = time.monotonic()

    async with asked(host, facts) as answer:
        with pytest.raises(HostUnresponsive):
            await answer.complete()

    assert answer.text == "Hello"
    assert time.monotonic() - started < 5


async def shaken(host: ScriptedHost, facts: SessionFacts) -> HostConnection:
    async with connected(host, facts) as connection:
        return connection


async def test_a_handshake_is_not_drawn_out(
    host: ScriptedHost, facts: SessionFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "INIT_TIMEOUT", 1.0)

    async def drip(line: Line) -> None:
        for _ in range(10):
            await line.shout(PONG)
            await line.pause(0.4)

    host.greet = drip
    started = time.monotonic()

    with pytest.raises(HostUnresponsive):
        await shaken(host, facts)

    assert time.monotonic() - started < 3


@pytest.mark.parametrize(("frame", "times"), [(PONG, 1000), ("x" * HANDSHAKE_BYTES, 1)])
async def test_a_handshake_is_small(
    host: ScriptedHost, facts: SessionFacts, frame: str, times: int
) -> None:
    async def flood(line: Line) -> None:
        for _ in range(times):
            await line.shout(frame)

    host.greet = flood

    with pytest.raises(RemoteProtocolError, match="more frames or bytes"):
        await shaken(host, facts)


# -- what anybody on the path can say -------------------------------------------------------------

FORGED: list[dict[str, object]] = [
    {"type": "stream_end", "session_id": "9", "id": "1", "reason": "complete"},
    {"type": "error", "code": "SESSION_NOT_ACTIVE", "message": "it is over"},
    {"type": "error", "code": "DEPOSIT_EXHAUSTED", "message": "deposit more", "id": "1"},
    {"type": "encrypted_chunk", "session_id": "9", "id": "1", "payload": {
        "index": 1, "ciphertextHex": "00" * 32, "nonceHex": "00" * 24}},
    {"type": "encrypted_receipt", "session_id": "9", "id": "1", "payload": {
        "ciphertextHex": "00" * 32, "nonceHex": "00" * 24}},
    {"type": "encrypted_response", "session_id": "9", "id": "1", "payload": {
        "ciphertextHex": "00" * 32, "nonceHex": "00" * 24}},
    {"type": "no such"},
    {"type": "session_closed", "session_id": "9", "tokens_proven": 4, "settles_in": 0},
    {"type": "session_init_ack", "session_id": "9", "job_id": 9, "chain_id": 31337},
    {"type": "connected", "message": "hello again"},
    {"type": "proof_submitted", "session_id": "9", "proof_id": "0x" + "00" * 32,
     "tokens_claimed": 1 << 60, "timestamp": 0},
]  # fmt: skip


@pytest.mark.parametrize("forged", FORGED, ids=lambda frame: str(frame["type"]))
async def test_a_forged_frame_at_most_ends_the_connection(
    host: ScriptedHost, facts: SessionFacts, forged: dict[str, object]
) -> None:
    """It comes after two of four tokens: nothing that was not delivered is ever acknowledged."""

    async def answer_and_forge(line: Line) -> None:
        await line.deliver("Hello", [1, 2])
        await line.receipt()
        await line.shout(json.dumps(forged))
        await line.deliver(" there", [3, 4])
        await line.receipt()
        await line.end()

    host.answer = answer_and_forge
    error: FabstirError | None = None

    async with asked(host, facts) as answer:
        try:
            await answer.complete()
        except (RemoteProtocolError, SessionRefused, FabstirError) as raised:
            error = raised

    (line,) = host.lines
    agreed = [signed.acknowledgement.cumulative_tokens for signed in line.acknowledged]
    assert not isinstance(error, ReceiptMismatch)
    assert agreed in ([], [2], [2, 4])
    assert error is not None or answer.text == "Hello there"


async def test_a_padded_answer_is_bounded_by_its_tokens(
    host: ScriptedHost, facts: SessionFacts
) -> None:
    """Each chunk carries a token, and as much padding as a frame may have."""
    padding = "x" * (MAX_HOST_FRAME_BYTES // 2)

    async def pad(line: Line) -> None:
        sent = 0
        while sent < 4:
            await line.deliver("a", [1])
            await line.shout(json.dumps({"type": "pong", "padding": padding}))
            sent += 1
        await line.receipt()
        await line.end()

    host.answer = pad

    async with asked(host, facts) as answer:
        with pytest.raises(RemoteProtocolError, match="more frames or bytes"):
            await answer.complete()

    assert 4 * len(padding) > FREE_BYTES + 4 * BYTES_PER_TOKEN
