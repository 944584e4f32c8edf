"""How answers end: by the model, a limit, a stop string, the deposit, the context, the renter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.unit.doors.hosting import SESSION, OpenDoor, open_door
from tests.unit.doors.test_session_door import PATIENCE, WORDS, EraC, agree, ask_for, connected
from tests.unit.protocol.exchange.answering import REQUEST
from tests.unit.protocol.exchange.meeting import JOB

from fabstir.primitives.errors import (
    ContextLengthExceeded,
    DepositExhausted,
    EngineUnavailable,
    FabstirError,
)
from fabstir.primitives.units import Wei
from fabstir.protocol.content import Message
from fabstir.protocol.exchange.renter import AnswerOver, PieceReceived, ReceiptReceived
from fabstir.protocol.exchange.verification import Verified
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.request import RequestPlaintext, ResponseFormat
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk.connection import HostConnection

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def request(
    text: str = "What is a receipt?",
    *,
    stop: tuple[str, ...] = (),
    max_tokens: int = 500,
    form: ResponseFormat | None = None,
) -> RequestPlaintext:
    asked = replace(
        REQUEST.request,
        messages=(Message("user", text),),
        sampling=SamplingParams(max_tokens=max_tokens, stop=stop),
        response_format=form,
    )
    return replace(REQUEST, request=asked)


async def answered(connection: HostConnection, asked: RequestPlaintext) -> tuple[str, str]:
    """The text of an answer, and why it ended."""
    answer = await ask_for(connection, asked)
    text = await answer.complete()
    assert answer.end is not None
    return text, answer.end.finish_reason


@pytest.mark.parametrize(
    ("stop", "text"),
    [(("w3",), "w0 w1 w2 "), (("w2 w",), "w0 w1 "), (("nothing of it",), "".join(WORDS[:9]))],
)
async def test_a_stop_string_ends_an_answer_before_itself(
    tmp_path: Path, stop: tuple[str, ...], text: str
) -> None:
    async with open_door(tmp_path, WORDS[:9]) as host, connected(host) as connection:
        assert await answered(connection, request(stop=stop)) == (text, "stop")


async def test_what_may_begin_a_stop_string_comes_at_the_limit(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS[:9]) as host, connected(host) as connection:
        asked = request(stop=("w1 w2",), max_tokens=2)

        assert await answered(connection, asked) == ("w0 w1 ", "length")


async def test_a_whole_answer_may_end_in_what_begins_a_stop_string(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS[:2]) as host, connected(host) as connection:
        assert await answered(connection, request(stop=("w1 w2",))) == ("w0 w1 ", "stop")


@pytest.mark.parametrize("batch_size", [1, 5, 64, 500])
async def test_what_comes_together_is_billed_as_if_it_came_alone(
    tmp_path: Path, batch_size: int
) -> None:
    """Receipts stand where single tokens would put them, and no window is overrun."""
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        host.engine.batch_size = batch_size
        await connection.send(connection.exchange.ask(request(max_tokens=190)))
        covered, largest = list[int](), 0
        while not isinstance(event := await connection.receive(PATIENCE), AnswerOver):
            if isinstance(event, PieceReceived):
                largest = max(largest, len(event.chunk.token_ids))
            if isinstance(event, ReceiptReceived):
                covered.append(event.verified.receipt.work.num_completion_tokens)
                signed = await agree(event.verified)
                await connection.send(connection.exchange.acknowledge(event.verified, signed))
        text = connection.exchange.verifier.text if connection.exchange.verifier else ""

        assert covered == [64, 128, 190]
        assert text == "".join(WORDS[:190])
        assert largest == min(batch_size, RECEIPT_INTERVAL_TOKENS)


@pytest.mark.parametrize("batch_size", [1, 3, 9])
async def test_tokens_behind_a_stop_string_are_not_billed(tmp_path: Path, batch_size: int) -> None:
    async with open_door(tmp_path, WORDS[:9]) as host, connected(host) as connection:
        host.engine.batch_size = batch_size

        assert await answered(connection, request(stop=("w3",))) == ("w0 w1 w2 ", "stop")
        assert connection.exchange.head.cumulative_tokens == 4  # agreed to, by the renter


@pytest.mark.parametrize("batch_size", [5, 100])
async def test_a_pause_in_the_middle_of_what_came_together_loses_nothing(
    tmp_path: Path, batch_size: int
) -> None:
    """Nothing is agreed to until the host has stopped at its window; then all is."""
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        host.engine.batch_size = batch_size
        await connection.send(connection.exchange.ask(request(max_tokens=190)))
        due, num_tokens = list[Verified](), 0
        while num_tokens < MAX_UNACKNOWLEDGED_TOKENS or len(due) < 2:
            event = await connection.receive(PATIENCE)
            if isinstance(event, PieceReceived):
                num_tokens += len(event.chunk.token_ids)
            elif isinstance(event, ReceiptReceived):
                due.append(event.verified)
        assert num_tokens == MAX_UNACKNOWLEDGED_TOKENS
        for verified in due:
            await connection.send(connection.exchange.acknowledge(verified, await agree(verified)))
        while not isinstance(event := await connection.receive(PATIENCE), AnswerOver):
            if isinstance(event, ReceiptReceived):
                signed = await agree(event.verified)
                await connection.send(connection.exchange.acknowledge(event.verified, signed))

        assert event.end.num_completion_tokens == 190
        verifier = connection.exchange.verifier
        assert verifier is not None
        assert verifier.text == "".join(WORDS[:190])


async def billed(host: OpenDoor) -> int:
    """Tokens that the host's books reserve or hold agreed to."""
    row = await host.ledger.session(JOB)
    assert row is not None
    return max(row.tokens_reserved, (await host.ledger.balance(JOB)).agreed)


async def refusal(host: OpenDoor, asked: RequestPlaintext) -> FabstirError:
    async with connected(host) as connection:
        answer = await ask_for(connection, asked)
        with pytest.raises(FabstirError) as refused:
            await answer.complete()
    return refused.value


async def test_a_prompt_that_fills_the_context_is_refused_unbilled(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host:
        error = await refusal(host, request("word " * 4096))

        assert isinstance(error, ContextLengthExceeded)
        assert (error.num_prompt_tokens, error.max_model_len) == (4096, 4096)
        assert await billed(host) == 0


async def test_a_deposit_ends_an_answer_and_then_refuses_the_next(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host:
        per_token = SESSION.price_per_token
        three = Wei(3 * per_token // 1000)
        host.rail.sessions = {JOB: replace(SESSION, deposit=three)}
        async with connected(host, deposit=three) as connection:
            text, reason = await answered(connection, request())

        assert (text, reason) == ("".join(WORDS[:3]), "deposit_exhausted")
        async with connected(host, head=connection.exchange.head, deposit=three) as again:
            answer = await ask_for(again, request())
            with pytest.raises(DepositExhausted):
                await answer.complete()


async def test_an_answer_held_to_a_form_keeps_its_slot_and_ends_without_agreement(
    tmp_path: Path,
) -> None:
    form = ResponseFormat()
    async with open_door(tmp_path, WORDS, patience=0.05) as host, connected(host) as connection:
        await connection.send(connection.exchange.ask(request(form=form)))
        while not isinstance(event := await connection.receive(PATIENCE), AnswerOver):
            assert not isinstance(event, ReceiptReceived) or event.verified

        assert event.end.finish_reason == "unacknowledged"
        assert event.end.num_completion_tokens == MAX_UNACKNOWLEDGED_TOKENS
        assert host.engine.num_cancelled == 1


async def test_a_session_that_is_settled_under_an_answer_ends_it(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host, connected(host) as connection:
        host.rail.max_unproven = 10
        answer = await ask_for(connection, request())
        while connection.exchange.head.cumulative_tokens < 10:
            await anext(answer)

        host.book.forget(JOB)

        with anyio.fail_after(PATIENCE):
            assert len((await answer.complete()).split()) == 10
        assert answer.end is not None
        assert answer.end.finish_reason == "cancelled"


async def test_an_engine_that_is_away_bills_nothing(tmp_path: Path) -> None:
    async with open_door(tmp_path, WORDS) as host:
        host.engine.fails_after = 0
        error = await refusal(host, request())

        assert isinstance(error, EngineUnavailable)
        assert await billed(host) == 0


async def test_an_existing_client_pays_for_what_came_before_the_engine_failed(
    tmp_path: Path,
) -> None:
    async with open_door(tmp_path, WORDS) as host:
        host.engine.fails_after = 4
        client = EraC(host.dial(), bytes([21]) * 32)
        await client.open()

        assert (await client.ask("Hello"))["code"] == "ENGINE_UNAVAILABLE"
        assert (await client.read("stream_end"))["reason"] == "error"
        assert (await host.ledger.balance(JOB)).agreed == 4


async def test_a_restarted_host_asks_an_existing_client_for_the_conversation(
    tmp_path: Path,
) -> None:
    async with open_door(tmp_path, WORDS[:3]) as host:
        client = EraC(host.dial(), bytes([21]) * 32)
        await client.open()
        await client.ask("Hello")

    async with open_door(tmp_path, WORDS[:3]) as host:
        client = EraC(host.dial(), bytes([21]) * 32, draws=2)
        await client.open()
        assert (await client.ask("And then?"))["code"] == "SESSION_NOT_FOUND"
        await client.read("stream_end")
        assert (await client.ask("And then?"))["reason"] == "complete"
