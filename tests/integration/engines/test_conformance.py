"""What every driver keeps to, against its real server. docs/engines.md has the results as a table.

vLLM takes minutes to start: `make test-vllm`.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

import anyio
import pytest
from tests.integration.engines.ways import Way

from fabstir.engines import (
    Engine,
    EngineState,
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
    RestartPolicy,
)
from fabstir.primitives.errors import (
    ContextLengthExceeded,
    ConversationRefused,
    EngineCrashed,
    EngineUnavailable,
    RequestRefused,
)
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.content import Message
from fabstir.protocol.request import ResponseFormat
from fabstir.protocol.sampling import SamplingParams

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ITALY = "What is the capital of Italy? Answer in one sentence."
EMOJI = "Repeat exactly: \U0001f600\U0001f389 你好世界 é"
COUNT = "Count from 1 to 1000."
END_TOKEN = 2
"""<|im_end|>"""

SCHEMA = '{"type": "string", "enum": ["whiskers", "paws"]}'


@pytest.fixture(scope="module")
async def engine(way: Way) -> AsyncGenerator[Engine]:
    async with way.open() as opened:
        yield opened


def asking(question: str, max_tokens: int, **sampling: object) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, seed=1)
    return GenerationRequest(
        messages=(Message("user", question),),
        sampling=replace(params, **sampling),  # type: ignore[arg-type]
    )


def counting(max_tokens: int, **sampling: object) -> GenerationRequest:
    """An answer that the model does not end by itself."""
    return asking(COUNT, max_tokens, logit_bias=((END_TOKEN, -100.0),), **sampling)


@dataclass
class Received:
    """One answer, whole."""

    start: GenerationStart
    chunks: list[GenerationChunk]
    end: GenerationEnd

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for chunk in self.chunks for token_id in chunk.token_ids]


async def receive(engine: Engine, request: GenerationRequest) -> Received:
    """Read an answer, and hold it to what holds for all of them."""
    events: list[GenerationEvent] = []
    async with engine.generate(request) as batches:
        async for batch in batches:
            assert batch
            events += batch
    start, *chunks, end = events
    assert isinstance(start, GenerationStart)
    assert isinstance(end, GenerationEnd)
    pieces = [each for each in chunks if isinstance(each, GenerationChunk)]
    assert len(pieces) == len(chunks)
    answer = Received(start, pieces, end)
    assert end.num_prompt_tokens == start.num_prompt_tokens
    assert end.num_completion_tokens == len(answer.token_ids) <= request.sampling.max_tokens
    assert all(each.text or each.token_ids for each in pieces)
    return answer


async def until_idle(way: Way, engine: Engine) -> None:
    with anyio.fail_after(20):
        while await way.num_running(engine):
            await anyio.sleep(0.01)


async def until_it_is(engine: Engine, state: EngineState, *, within: float = 30.0) -> None:
    with anyio.fail_after(within):
        while engine.state is not state:
            await anyio.sleep(0.02)


async def test_the_prompt_is_counted_as_the_server_counts_it(way: Way, engine: Engine) -> None:
    for question in (ITALY, EMOJI, "", " \n<|im_end|>\t{{ 1 }}"):
        answer = await receive(engine, asking(question, 1))

        told = await way.tokenize(engine, [Message("user", question)])
        assert answer.start.num_prompt_tokens == len(told)


async def test_every_generated_token_is_in_one_piece(way: Way, engine: Engine) -> None:
    await until_idle(way, engine)
    before = await way.num_generated(engine)

    answers = [await receive(engine, request) for request in (asking(ITALY, 60), counting(24))]

    await until_idle(way, engine)
    num_counted = await way.num_generated(engine) - before
    assert num_counted == sum(len(answer.token_ids) for answer in answers)


async def test_the_pieces_joined_are_the_text_of_the_tokens(way: Way, engine: Engine) -> None:
    for question in (ITALY, COUNT, EMOJI):
        answer = await receive(engine, asking(question, 40))

        token_ids = answer.token_ids
        if answer.end.finish_reason == "stop":
            assert answer.chunks[-1].token_ids[-1:] == tuple(token_ids[-1:])
            token_ids = token_ids[:-1]
        assert answer.text == await way.detokenize(engine, token_ids)


async def test_an_answer_by_the_model_ends_itself(engine: Engine) -> None:
    answer = await receive(engine, asking(ITALY, 60))

    assert "Rome" in answer.text
    assert answer.end.finish_reason == "stop"


async def test_no_piece_cuts_a_character(engine: Engine) -> None:
    answers = [await receive(engine, asking(EMOJI, length)) for length in (3, 6, 9, 40)]

    for answer in answers:
        assert "\ufffd" not in answer.text
    assert any(ord(letter) > 0x7F for letter in answers[-1].text)
    longest = answers[-1].token_ids
    assert all(longest[: len(each.token_ids)] == each.token_ids for each in answers)


async def test_max_tokens_are_exact(engine: Engine) -> None:
    answer = await receive(engine, counting(17))

    assert len(answer.token_ids) == 17
    assert answer.end.finish_reason == "length"


async def test_a_seed_reproduces_its_answer(engine: Engine) -> None:
    request = asking("Write a line of a poem.", 16, temperature=1.0, top_p=1.0, seed=7)

    first = await receive(engine, request)
    again = await receive(engine, request)
    others = [
        await receive(engine, replace(request, sampling=replace(request.sampling, seed=seed)))
        for seed in (8, 9)
    ]

    assert again.token_ids == first.token_ids
    assert any(other.token_ids != first.token_ids for other in others)


async def test_a_stop_string_ends_the_answer_and_is_not_shown(engine: Engine) -> None:
    plain = await receive(engine, counting(30))
    stop = plain.text[8:12]

    answer = await receive(engine, counting(30, stop=(stop,)))

    assert answer.text == plain.text[: plain.text.index(stop)]
    assert answer.end.finish_reason == "stop"
    assert answer.token_ids == plain.token_ids[: len(answer.token_ids)]


async def test_a_prompt_beyond_the_context_is_refused(way: Way, engine: Engine) -> None:
    question = "word " * (engine.info.max_model_len + 100)

    with pytest.raises(ContextLengthExceeded) as refused:
        await receive(engine, asking(question, 5))

    assert refused.value.max_model_len == engine.info.max_model_len
    assert refused.value.num_prompt_tokens == len(
        await way.tokenize(engine, [Message("user", question)])
    )


async def test_the_context_that_was_promised_ends_an_answer(way: Way) -> None:
    """Also where the server's own is longer."""
    question = "Repeat for ever: " + "one two three " * 30

    async with way.open(max_model_len=128) as engine:
        answer = await receive(engine, asking(question, 10_000, logit_bias=((END_TOKEN, -100.0),)))

    assert answer.end.finish_reason == "length"
    assert answer.start.num_prompt_tokens + len(answer.token_ids) == 128


@pytest.mark.parametrize("num_before", [1, 9, 20])
async def test_an_answer_goes_on_where_it_was_left(engine: Engine, num_before: int) -> None:
    whole = await receive(engine, counting(30))
    pieces = list(whole.chunks)
    begun: list[GenerationChunk] = []
    while sum(len(each.token_ids) for each in begun) < num_before:
        begun.append(pieces.pop(0))
    generated = tuple(token_id for each in begun for token_id in each.token_ids)

    rest = await receive(engine, replace(counting(30 - len(generated)), generated=generated))

    assert rest.start.num_prompt_tokens == whole.start.num_prompt_tokens
    assert [*generated, *rest.token_ids] == whole.token_ids
    assert "".join(each.text for each in begun) + rest.text == whole.text


@pytest.mark.parametrize("num_alternatives", [0, 3])
async def test_every_token_has_its_probability(engine: Engine, num_alternatives: int) -> None:
    if ModelCapability.LOGPROBS not in engine.capabilities():
        pytest.skip("it promises none")

    answer = await receive(engine, asking(ITALY, 40, logprobs=True, top_logprobs=num_alternatives))

    told = [each for chunk in answer.chunks for each in chunk.logprobs]
    assert [each.token_id for each in told] == answer.token_ids[: len(told)]
    assert b"".join(each.token_bytes for each in told).decode() == answer.text
    assert all(len(each.top) == num_alternatives for each in told)


async def test_an_answer_is_held_to_a_schema(engine: Engine) -> None:
    if ModelCapability.JSON_SCHEMA not in engine.capabilities():
        pytest.skip("it promises none")
    request = replace(asking("Describe a cat.", 20), response_format=ResponseFormat(schema=SCHEMA))

    answer = await receive(engine, request)

    assert json.loads(answer.text) in {"whiskers", "paws"}


async def test_a_schema_that_cannot_be_held_is_refused(engine: Engine) -> None:
    if ModelCapability.JSON_SCHEMA not in engine.capabilities():
        pytest.skip("it promises none")
    for schema in ('{"type": "nonsense"}', '{"$ref": "https://example.com/schema.json"}'):
        form = ResponseFormat(schema=schema)

        with pytest.raises(RequestRefused, match="schema"):
            await receive(engine, replace(asking("Describe a cat.", 20), response_format=form))


async def test_leaving_an_answer_frees_the_server(way: Way, engine: Engine) -> None:
    async with engine.generate(counting(400)) as batches:
        async for _batch in batches:
            assert await way.num_running(engine) == 1
            break

    await until_idle(way, engine)
    settled = await way.num_generated(engine)
    await receive(engine, asking("Say yes.", 2))
    await until_idle(way, engine)
    assert await way.num_generated(engine) - settled == 2


async def test_roles_that_the_template_refuses_are_the_callers_fault(engine: Engine) -> None:
    user = Message("user", "Hello")

    for refused in ((user, user), (user, Message("assistant", "Hi"), user, user)):
        with pytest.raises(ConversationRefused, match="roles must alternate"):
            await receive(engine, replace(asking("", 1), messages=refused))


async def test_a_stopped_server_fails_its_answers_and_is_followed(way: Way) -> None:
    async with way.open(restarts=RestartPolicy(heartbeat_timeout=1.5)) as engine:
        with pytest.raises(EngineCrashed), anyio.fail_after(30):
            async with engine.generate(counting(400)) as batches:
                async for _batch in batches:
                    way.send(engine, signal.SIGSTOP)
        await until_it_is(engine, EngineState.RESTARTING)
        with pytest.raises(EngineUnavailable, match="health check"):
            await receive(engine, asking(ITALY, 4))

        way.send(engine, signal.SIGCONT)

        await until_it_is(engine, EngineState.READY)
        assert len((await receive(engine, counting(4))).token_ids) == 4


async def test_a_killed_server_fails_its_answers_and_is_followed(way: Way) -> None:
    async with way.open() as engine:
        with pytest.raises(EngineCrashed, match="send the request again"), anyio.fail_after(30):
            async with engine.generate(counting(400)) as batches:
                async for _batch in batches:
                    way.send(engine, signal.SIGKILL)
        await until_it_is(engine, EngineState.RESTARTING)
        with pytest.raises(EngineUnavailable):
            await receive(engine, asking(ITALY, 4))

        way.revive()

        await until_it_is(engine, EngineState.READY, within=way.start_seconds)
        assert len((await receive(engine, counting(4))).token_ids) == 4
