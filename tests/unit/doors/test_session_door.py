"""A session's door, from stream to journal: no socket, no model and no chain."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.unit.doors.hosting import (
    DEPOSITOR,
    SESSION,
    MemoryStream,
    OpenDoor,
    open_door,
)
from tests.unit.protocol.exchange.answering import DOMAIN, REQUEST, asking_for
from tests.unit.protocol.exchange.meeting import (
    ENCRYPTION_SECRET,
    FACTS,
    JOB,
    SESSION_SECRET,
    introduction,
    randomness,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import HostUnresponsive, SessionRefused
from fabstir.primitives.ids import Hash32, JobId, ModelId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.client_messages import EncryptedMessage, EncryptedSessionInit
from fabstir.protocol.envelope import NONCE_BYTES, seal_init, seal_payload
from fabstir.protocol.exchange.account import MAX_LOST_TOKENS
from fabstir.protocol.exchange.renter import AnswerOver, Closed, ReceiptReceived, RenterExchange
from fabstir.protocol.exchange.verification import Verified
from fabstir.protocol.frames import Frame, encode_frame
from fabstir.protocol.host_messages import ProofMessage
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS
from fabstir.protocol.payloads import InitPlaintext
from fabstir.protocol.receipts import ChainHead, SignedAcknowledgement
from fabstir.protocol.request import RequestPlaintext
from fabstir.sdk.answer import AsyncAnswerStream
from fabstir.sdk.connection import HostConnection, open_connection

pytestmark = pytest.mark.anyio

WORDS = [f"w{number} " for number in range(200)]
PATIENCE = 10.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def connected(
    host: OpenDoor,
    head: ChainHead | None = None,
    last: SignedAcknowledgement | None = None,
    *,
    deposit: Wei = FACTS.deposit,
) -> AsyncGenerator[HostConnection]:
    exchange = RenterExchange(replace(FACTS, deposit=deposit), head or ChainHead())
    greeting = exchange.greet(introduction(last), host.random)
    async with open_connection(host.dial(), exchange, greeting) as connection:
        yield connection


async def agree(verified: Verified) -> SignedAcknowledgement:
    return verified.acknowledgement.sign(SESSION_SECRET, DOMAIN, NATIVE)


async def ask(connection: HostConnection, max_tokens: int = 500) -> AsyncAnswerStream:
    return await ask_for(connection, asking_for(max_tokens))


async def ask_for(connection: HostConnection, request: RequestPlaintext) -> AsyncAnswerStream:
    await connection.send(connection.exchange.ask(request))
    assert connection.exchange.verifier is not None
    return AsyncAnswerStream(connection, connection.exchange.verifier, FACTS, agree)


# -- a session ----------------------------------------------------------------------------------


async def test_what_is_asked_is_answered_receipted_agreed_to_and_closed(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        assert host.served[-1].is_known
        answer = await ask(connection)
        assert await answer.complete() == "".join(WORDS)
        short = await ask(connection, max_tokens=3)
        assert await short.complete() == "".join(WORDS[:3])
        assert short.end is not None
        assert short.end.finish_reason == "length"

        await connection.send(connection.exchange.close())
        closed = await connection.receive(PATIENCE)

        assert isinstance(closed, Closed)
        assert closed.closed.tokens_proven == 203
        assert (await host.ledger.balance(JOB)).agreed == 203
        assert host.rail.claimed[JOB] == 203


async def test_a_renter_that_agrees_to_nothing_gets_one_window(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS, patience=0.1) as host, connected(host) as connection:
        await connection.send(connection.exchange.ask(REQUEST))
        receipts = 0
        while True:
            event = await connection.receive(PATIENCE)
            receipts += isinstance(event, ReceiptReceived)
            if isinstance(event, AnswerOver):
                break

        assert event.end.finish_reason == "unacknowledged"
        assert event.end.num_completion_tokens == MAX_UNACKNOWLEDGED_TOKENS
        assert receipts == 2
        assert (await host.ledger.balance(JOB)).agreed == 0


async def test_an_answer_waits_for_its_proof(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        host.rail.max_unproven = 100
        answer = await ask(connection)
        while connection.exchange.head.cumulative_tokens < 100:
            await anext(answer)
        with anyio.fail_after(PATIENCE):
            while host.rail.claimed.get(JOB) != 100:
                await anyio.sleep(0)

        host.book.proven(JOB, TokenCount(100), proof_of(100))
        await answer.complete()

        assert connection.exchange.head.cumulative_tokens == 200


def proof_of(tokens: int) -> ProofMessage:
    return ProofMessage(
        session_id=str(JOB),
        proof_id=Hash32("0x" + "12" * 32),
        tokens_claimed=tokens,
        timestamp=1,
        size_bytes=1,
    )


async def test_a_cancelled_answer_is_receipted_and_the_next_one_begins(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        answer = await ask(connection)
        await anext(answer)
        await answer.cancel()
        await answer.complete()
        assert answer.end is not None
        cut = answer.end.num_completion_tokens

        second = await ask(connection, max_tokens=2)
        await second.complete()

        assert answer.end.finish_reason == "cancelled"
        assert connection.exchange.head.cumulative_tokens == cut + 2


async def test_a_new_connection_goes_on_after_the_last_agreement(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host:
        async with connected(host) as first:
            await (await ask(first)).complete()
            head, last = first.exchange.head, None
        async with connected(host, head, last) as second:
            await (await ask(second, max_tokens=1)).complete()

            assert second.exchange.head.cumulative_tokens == 201
            assert second.exchange.head.sequence == head.sequence + 1


async def test_reconnecting_instead_of_agreeing_ends_a_session(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS, patience=0.0) as host:
        for _ in range(MAX_LOST_TOKENS // MAX_UNACKNOWLEDGED_TOKENS + 1):
            async with connected(host) as connection:
                await connection.send(connection.exchange.ask(REQUEST))
                while not isinstance(await connection.receive(PATIENCE), AnswerOver):
                    pass
        async with connected(host) as connection:
            with pytest.raises(SessionRefused, match="UNACKNOWLEDGED"):
                await (await ask(connection)).complete()


async def test_a_host_that_is_shut_down_begins_nothing_and_ends_what_runs(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        await (await ask(connection, max_tokens=1)).complete()
        host.book.is_draining = True
        await host.door.drain()

        with pytest.raises(SessionRefused, match="DRAINING"):
            await (await ask(connection)).complete()
        with pytest.raises(SessionRefused, match="DRAINING"):
            async with connected(host):
                pytest.fail("a draining host opens no session")


# -- who has it ---------------------------------------------------------------------------------


async def test_one_session_has_one_connection(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host, connected(host) as first:
        assert host.served[0].is_known
        async with connected(host):
            assert (host.served[0].is_known, host.served[1].is_known) == (False, True)
            with pytest.raises(SessionRefused, match="SESSION_EVICTED"):
                await (await ask(first)).complete()


async def test_a_session_that_is_over_is_nobodys(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        host.book.forget(JOB)

        assert not host.served[0].is_known
        with pytest.raises(SessionRefused, match="SESSION_NOT_ACTIVE"):
            await (await ask(connection)).complete()


async def test_who_has_left_is_told_nothing(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host:
        async with connected(host):
            pass
        while len(host.book):
            await anyio.sleep(0)

        host.book.forget(JOB)

        assert host.served[0].is_known  # it closed; nobody asks any more


async def test_a_stopped_session_answers_no_more(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        host.book.stop(JOB)

        with pytest.raises(SessionRefused, match="SESSION_NOT_ACTIVE"):
            await (await ask(connection)).complete()
    assert host.book.said(JobId(99)) is None


# -- at the gate --------------------------------------------------------------------------------


async def refused_with(host: OpenDoor, code: str, **changes: Any) -> None:
    with pytest.raises(SessionRefused, match=code):
        async with connected(host, **changes):
            pytest.fail("the gate let it in")


async def test_the_gate_says_no_and_why(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host:
        host.rail.sessions = {}
        await refused_with(host, "SESSION_NOT_FOUND")
        host.rail.sessions = {JOB: replace(SESSION, model_id=ModelId("0x" + "44" * 32))}
        await refused_with(host, "WRONG_MODEL")
        host.rail.sessions = {JOB: replace(SESSION, depositor=SESSION.contract)}
        await refused_with(host, "NOT_DEPOSITOR")


async def test_a_handshake_is_used_once(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host:
        exchange = RenterExchange(FACTS, ChainHead())
        greeting = exchange.greet(introduction(), host.random)
        async with open_connection(host.dial(), exchange, greeting):
            pass

        again = RenterExchange(FACTS, ChainHead())
        again.greet(introduction(), host.random)
        with pytest.raises(SessionRefused, match="REPLAYED_INIT"):
            async with open_connection(host.dial(), again, greeting):
                pytest.fail("a handshake was used twice")


# -- existing clients ---------------------------------------------------------------------------


class EraC:
    """An existing client: no proof, no receipts, one key."""

    def __init__(self, stream: MemoryStream, secret: bytes, *, draws: int = 0) -> None:
        """`draws`: which of a client's streams of randomness; no two may be the same."""
        self.stream = stream
        self._secret = secret
        self._random = randomness(draws)
        self._key = secret

    async def send(self, frame: Frame) -> None:
        await self.stream.send(encode_frame(frame))

    async def read(self, kind: str) -> dict[str, Any]:
        with anyio.fail_after(PATIENCE):
            while True:
                frame = json.loads(await self.stream.receive())
                if frame["type"] in {kind, "error"}:
                    return frame

    async def open(self) -> dict[str, Any]:
        init = InitPlaintext(job_id=JOB, model_name="any", session_key=self._key)
        envelope = seal_init(
            init.encode(),
            host_public_key=NATIVE.public_key(ENCRYPTION_SECRET),
            ephemeral_secret=self._random(32)[::-1],
            signing_secret=self._secret,
            nonce=self._random(NONCE_BYTES),
            aad=b"",
            crypto=NATIVE,
        )
        await self.send(
            EncryptedSessionInit(
                session_id=str(JOB), job_id=JOB, chain_id=None, payload=envelope, id="1"
            )
        )
        return await self.read("session_init_ack")

    async def ask(self, prompt: str, session_id: str = str(JOB)) -> dict[str, Any]:
        payload = seal_payload(self._key, self._random(NONCE_BYTES), b"", prompt.encode(), NATIVE)
        self.last_asked = EncryptedMessage(session_id=session_id, id="q", payload=payload)
        await self.send(self.last_asked)
        return await self.read("stream_end")


async def test_an_existing_client_is_answered_and_pinned(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS[:5]) as host:
        client = EraC(host.dial(), bytes([21]) * 32)
        assert (await client.open())["status"] == "success"
        end = await client.ask("Hello")
        stale = await client.ask("Hello again", session_id="4711")

        assert (end["tokens_used"], end["reason"]) == (5, "complete")
        assert stale["session_id"] == str(JOB)
        assert (await host.ledger.balance(JOB)).agreed == 10
        other = EraC(host.dial(), bytes([22]) * 32)
        assert (await other.open())["code"] == "SESSION_PINNED"


async def test_whatever_is_sent_is_answered(tmp_path: Path) -> None:
    async with open_door(tmp_path) as host:
        client = EraC(host.dial(), bytes([21]) * 32)
        await client.stream.send('{"type":"ping"}')
        assert (await client.read("pong"))["type"] == "pong"
        await client.stream.send('{"type":"something_new","id":"7"}')
        assert (await client.read("error"))["id"] == "7"


async def test_a_message_of_an_existing_client_counts_once(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS[:5]) as host:
        client = EraC(host.dial(), bytes([21]) * 32)
        await client.open()
        await client.ask("Hello")
        frame = client.last_asked

        await client.send(frame)
        refused = await client.read("stream_end")

        assert refused["code"] == "REPLAYED_MESSAGE"
        assert (await host.ledger.balance(JOB)).agreed == 5


async def test_the_depositor_evicts_who_could_not_show_it(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS[:5]) as host:
        client = EraC(host.dial(), bytes([21]) * 32)
        await client.open()
        await client.ask("Hello")

        async with connected(host) as connection:
            assert (await client.read("error"))["code"] == "SESSION_EVICTED"
            assert connection.exchange.head == ChainHead()
        assert (await host.ledger.balance(JOB)).agreed == 0
        assert (await client.open())["code"] == "SESSION_PINNED"


async def test_who_is_refused_again_and_again_is_cut(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host:
        stream = host.dial()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            for _ in range(10_000):
                await stream.send("no frame")
                await stream.receive()

        assert "RATE_LIMITED" in (host.served[0].why_refused or "")


async def test_a_host_that_is_gone_is_noticed(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        await host.served[0].aclose()

        with pytest.raises(HostUnresponsive):
            await (await ask(connection)).complete()
    assert SESSION.depositor == DEPOSITOR
