"""What today's clients ask for besides text, at a real host: served and receipted, or refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fabstir.primitives.errors import RequestRefused
from fabstir.primitives.units import Wei
from fabstir.protocol.content import ImagePart, Message, TextPart, Tool
from fabstir.protocol.limits import RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.request import ResponseFormat
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import AsyncClient, AsyncSession, ReceiptVerified, Text

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

DEPOSIT = Wei(10**15)
GREEDY = SamplingParams(max_tokens=8, temperature=0)
NUMBERS = ResponseFormat(
    schema='{"type": "array", "minItems": 60, "maxItems": 60, "items": {"type": "integer"}}'
)


async def say(session: AsyncSession, content: str, sampling: SamplingParams) -> str:
    async with session.chat([Message("user", content)], sampling=sampling) as answer:
        return await answer.complete()


async def test_an_answer_in_a_schemas_form_is_receipted_as_any_other(client: AsyncClient) -> None:
    offer, *_ = await client.find_hosts()
    question = [Message("user", "Sixty numbers, please.")]

    async with client.open_session(offer, deposit=DEPOSIT) as session:
        sampling = replace(GREEDY, max_tokens=600)
        async with session.chat(question, sampling=sampling, response_format=NUMBERS) as answer:
            events = [event async for event in answer]
        settlement = await session.close()

    assert len(json.loads(answer.text)) == 60
    receipts = [event for event in events if isinstance(event, ReceiptVerified)]
    assert len(receipts) > 1
    assert settlement.tokens_settled == receipts[-1].cumulative_tokens > RECEIPT_INTERVAL_TOKENS
    assert answer.additions == receipts[0].additions == ()


async def test_what_the_model_does_not_serve_is_refused_by_name_and_not_billed(
    client: AsyncClient,
) -> None:
    offer, *_ = await client.find_hosts()
    picture = Message("user", (TextPart("What is it?"), ImagePart("data:image/png;base64,AA==")))
    unheard = ResponseFormat(schema='{"type": "nonsense"}')
    hello = [Message("user", "Hello")]

    async with client.open_session(offer, deposit=DEPOSIT) as session:
        with pytest.raises(RequestRefused, match="images, tools"):
            async with session.chat([picture], tools=[Tool(name="look")]) as answer:
                await answer.complete()
        with pytest.raises(RequestRefused, match="schema"):
            async with session.chat(hello, response_format=unheard) as answer:
                await answer.complete()
        assert session.tokens == 0
        text = await say(session, "Say hello.", GREEDY)
        settlement = await session.close()

    assert text
    assert settlement.tokens_settled == session.tokens <= GREEDY.max_tokens


async def test_a_seed_makes_an_answer_again_and_none_makes_another(client: AsyncClient) -> None:
    offer, *_ = await client.find_hosts()
    creative = SamplingParams(max_tokens=24, temperature=1.5, top_k=0, min_p=0)
    question = "Invent a word and say what it means."

    async with client.open_session(offer, deposit=DEPOSIT) as session:
        seeded = [await say(session, question, replace(creative, seed=5)) for _ in range(2)]
        unseeded = [await say(session, question, creative) for _ in range(2)]

    assert seeded[0] == seeded[1]
    assert len({*seeded, *unseeded}) == 3


async def test_probabilities_come_with_the_tokens(client: AsyncClient) -> None:
    offer, *_ = await client.find_hosts()
    sampling = replace(GREEDY, logprobs=True, top_logprobs=2)

    async with (
        client.open_session(offer, deposit=DEPOSIT) as session,
        session.chat([Message("user", "Say hello.")], sampling=sampling) as answer,
    ):
        events = [event async for event in answer]

    told = [each for event in events if isinstance(event, Text) for each in event.logprobs]
    assert b"".join(each.token_bytes for each in told).decode() == answer.text
    assert all(len(each.top) == 2 for each in told)
