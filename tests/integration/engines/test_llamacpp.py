"""The engine with a real model: counts, text, stops, cancellation."""

import json
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from fabstir.engines import (
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
)
from fabstir.engines.llamacpp import LlamaCppEngine, open_llamacpp
from fabstir.engines.llamacpp.completion import CompletionReader, completion_body
from fabstir.engines.llamacpp.vocabulary import character_pieces
from fabstir.models.gguf import read_gguf
from fabstir.primitives.errors import (
    ContextLengthExceeded,
    ConversationRefused,
    EngineUnavailable,
    RequestRefused,
)
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.content import Message
from fabstir.protocol.request import ResponseFormat
from fabstir.protocol.sampling import SamplingParams

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

END_OF_TURN: Final = 2
"""The token with which the demo's model ends an answer."""

ITALY = "What is the capital of Italy? Answer in one sentence."


def greedy(max_tokens: int, stop: tuple[str, ...] = ()) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, seed=1, stop=stop)


def asking(
    question: str, sampling: SamplingParams, response_format: ResponseFormat | None = None
) -> GenerationRequest:
    return GenerationRequest(
        messages=(Message("user", question),), sampling=sampling, response_format=response_format
    )


def ids_of(chunks: Iterable[GenerationChunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.token_ids]


def text_of(chunks: Iterable[GenerationChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def complete(
    engine: LlamaCppEngine, question: str, sampling: SamplingParams
) -> tuple[list[GenerationChunk], GenerationEnd]:
    """Ask, and hold the engine to what every answer keeps to."""
    received = await everything(engine, asking(question, sampling))
    start, chunks, end = received[0], chunks_of(received), received[-1]
    assert isinstance(start, GenerationStart)
    assert isinstance(end, GenerationEnd)
    assert len(received) == len(chunks) + 2
    prompt = await prompt_ids(engine, question)
    assert start.num_prompt_tokens == end.num_prompt_tokens == len(prompt)
    assert end.num_completion_tokens == len(ids_of(chunks)) <= sampling.max_tokens
    return chunks, end


async def everything(engine: LlamaCppEngine, request: GenerationRequest) -> list[GenerationEvent]:
    async with engine.generate(request) as batches:
        return [event async for batch in batches for event in batch]


def chunks_of(events: Iterable[GenerationEvent]) -> list[GenerationChunk]:
    return [event for event in events if isinstance(event, GenerationChunk)]


async def prompt_ids(engine: LlamaCppEngine, *contents: str) -> list[int]:
    """By the engine's own template and tokenizer; the roles take turns."""
    roles = cycle(("user", "assistant"))
    messages = [
        {"role": role, "content": text} for role, text in zip(roles, contents, strict=False)
    ]
    rendered = await engine.address.post_json("/apply-template", {"messages": messages})
    body = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
    return (await engine.address.post_json("/tokenize", body))["tokens"]


async def predicted_total(engine: LlamaCppEngine) -> int:
    found = re.search(r"^llamacpp:tokens_predicted_total (\d+)", await engine.metrics(), re.M)
    assert found
    return int(found[1])


async def test_an_answer_by_the_model(engine: LlamaCppEngine) -> None:
    chunks, end = await complete(engine, ITALY, greedy(40))

    assert text_of(chunks) == "The capital of Italy is Rome."
    assert end.finish_reason == "stop"


SCHEMA = """{
  "type": "object",
  "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
  "required": ["name", "age"],
  "additionalProperties": false
}"""
CAT = "Describe a cat."


async def complete_in_form(engine: LlamaCppEngine, form: ResponseFormat) -> str:
    request = asking(CAT, greedy(60), response_format=form)
    return text_of(chunks_of(await everything(engine, request)))


async def test_an_answer_is_held_to_a_schema(engine: LlamaCppEngine) -> None:
    assert {ModelCapability.JSON_OBJECT, ModelCapability.JSON_SCHEMA} <= engine.capabilities()

    answer = await complete_in_form(engine, ResponseFormat(schema=SCHEMA))

    described = json.loads(answer)
    assert list(described) == ["name", "age"]
    assert isinstance(described["age"], int)


async def test_an_answer_is_held_to_any_object(engine: LlamaCppEngine) -> None:
    answer = await complete_in_form(engine, ResponseFormat())

    assert answer.lstrip().startswith("{")


CIRCLE = '{"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"}'


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "nonsense"}',
        '{"$ref": "https://example.com/schema.json"}',
        '{"type": "object", "not": {"required": ["a"]}}',
        '{"type": "string", "pattern": "["}',
        '{"properties": [1]}',
        '{"allOf": [{"$ref": "#"}]}',
        CIRCLE,
    ],
    ids=range(7),
)
async def test_a_schema_that_the_engine_would_ignore_is_refused(
    engine: LlamaCppEngine, schema: str
) -> None:
    """The server drops what it cannot follow, without a word, and answers in free text."""
    with pytest.raises(RequestRefused, match="schema"):
        await complete_in_form(engine, ResponseFormat(schema=schema))


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "string", "minLength": 100000, "maxLength": 1000000000}',
        '{"type": "array", "minItems": 100000, "items": {"type": "array", "minItems": 100000}}',
        '{"type": "string", "pattern": "^(a+)+$"}',
        '{"type": "integer", "minimum": -1' + "0" * 300 + "}",
    ],
    ids=range(4),
)
async def test_hostile_schemas_leave_the_engine_alive(engine: LlamaCppEngine, schema: str) -> None:
    pid = engine.pid

    with suppress(RequestRefused):
        await complete_in_form(engine, ResponseFormat(schema=schema))

    chunks, _ = await complete(engine, ITALY, greedy(40))
    assert text_of(chunks) == "The capital of Italy is Rome."
    assert engine.pid == pid


async def test_a_bias_and_penalties_change_the_answer(engine: LlamaCppEngine) -> None:
    plain, _ = await complete(engine, ITALY, greedy(12))
    first = plain[0].token_ids[0]

    forbidden = replace(greedy(12), logit_bias=((first, -100.0),))
    biased, _ = await complete(engine, ITALY, forbidden)

    assert first not in ids_of(biased)
    question = "Repeat the word yes twenty times."
    plain, _ = await complete(engine, question, greedy(40))
    for penalty in ({"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
        penalised, _ = await complete(engine, question, replace(greedy(40), **penalty))
        assert len(set(ids_of(penalised))) > len(set(ids_of(plain)))


@pytest.mark.parametrize("num_alternatives", [0, 3])
async def test_every_token_has_its_probability(
    engine: LlamaCppEngine, num_alternatives: int
) -> None:
    asked = replace(greedy(40), logprobs=True, top_logprobs=num_alternatives)

    chunks, _ = await complete(engine, ITALY, asked)

    told = [each for chunk in chunks for each in chunk.logprobs]
    assert [each.token_id for each in told] == ids_of(chunks)[: len(told)]
    assert b"".join(each.token_bytes for each in told).decode() == text_of(chunks)
    for each in told:
        assert len(each.top) == num_alternatives
        if each.top:  # greedy, so the likeliest was taken
            assert (each.top[0].token_id, each.top[0].logprob) == (each.token_id, each.logprob)
    assert not any(chunk.logprobs for chunk in (await complete(engine, ITALY, greedy(5)))[0])


async def test_max_tokens_are_exact(engine: LlamaCppEngine) -> None:
    before = await predicted_total(engine)

    chunks, end = await complete(engine, "Count from 1 to 100.", greedy(17))

    assert len(ids_of(chunks)) == 17
    assert await predicted_total(engine) - before == 17
    assert end.finish_reason == "length"


async def test_the_token_that_ends_an_answer_counts(engine: LlamaCppEngine) -> None:
    before = await predicted_total(engine)

    chunks, end = await complete(engine, ITALY, greedy(40))

    assert end.finish_reason == "stop"
    assert chunks[-1].text == ""
    assert await predicted_total(engine) - before == len(ids_of(chunks))


@pytest.mark.parametrize("text", ["\U0001f48c!", "é 你好 \U0001f1e9\U0001f1ea"])
@pytest.mark.parametrize("forbidden", [[], [[40276, False]]])
async def test_every_token_of_a_character_is_reported(
    engine: LlamaCppEngine, demo_model: Path, text: str, forbidden: list[Any]
) -> None:
    """Forbidding a token makes the model spell an emoji in more tokens than a tokenizer would:
    without that it does so for 1 in 200."""
    pieces = character_pieces(read_gguf(demo_model))
    request = asking("Hello", greedy(24))
    body = completion_body(request, "Hello")
    body |= {"grammar": f'root ::= "{text}"', "logit_bias": forbidden}

    async with engine.address.stream("POST", "/completion", body) as answer:
        chunks = chunks_of(CompletionReader(pieces, request, 512).feed(await answer.read()))

    unstreamed = body | {"stream": False, "response_fields": ["tokens"]}
    listed = await engine.address.post_json("/completion", unstreamed)
    assert text_of(chunks) == text
    assert ids_of(chunks) == listed["tokens"]
    assert any(len(chunk.token_ids) > 1 for chunk in chunks)


async def test_a_character_that_is_cut_off_is_not_delivered(engine: LlamaCppEngine) -> None:
    question = "Repeat exactly: \U0001f600\U0001f389 你好世界"

    answers = [await complete(engine, question, greedy(length)) for length in range(1, 8)]

    assert all("\ufffd" not in text_of(chunks) for chunks, _end in answers)
    assert any(end.num_completion_tokens < length for length, (_, end) in enumerate(answers, 1))
    ids = [ids_of(chunks) for chunks, _end in answers]
    assert all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(ids))


async def test_a_stop_string_ends_the_answer(engine: LlamaCppEngine) -> None:
    chunks, end = await complete(engine, ITALY, greedy(40, stop=(" is",)))

    assert text_of(chunks) == "The capital of Italy"
    assert end.finish_reason == "stop"


async def test_leaving_early_stops_decoding(engine: LlamaCppEngine) -> None:
    async with engine.generate(asking("Count from 1 to 1000.", greedy(400))) as batches:
        async for _batch in batches:
            break

    _chunks, _end = await complete(engine, "Say yes.", greedy(2))
    settled = await predicted_total(engine)
    _chunks, _end = await complete(engine, "Say no.", greedy(2))
    assert await predicted_total(engine) - settled == 2


async def test_a_prompt_beyond_the_context_is_refused(engine: LlamaCppEngine) -> None:
    question = "word " * 600

    with pytest.raises(ContextLengthExceeded) as refused:
        await everything(engine, asking(question, greedy(5)))

    assert refused.value.num_prompt_tokens == len(await prompt_ids(engine, question))
    assert refused.value.max_model_len == 512


async def test_four_answers_at_once_equal_one_alone(engine: LlamaCppEngine) -> None:
    alone, _end = await complete(engine, "Name a colour.", greedy(12))
    together: list[list[GenerationChunk]] = []

    async def ask() -> None:
        together.append((await complete(engine, "Name a colour.", greedy(12)))[0])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(ask)

    assert together == [alone] * 4


async def test_more_requests_than_slots_wait_and_block_nobody(engine: LlamaCppEngine) -> None:
    most = 0

    async def ask() -> None:
        nonlocal most
        _chunks, end = await complete(engine, "Name a colour.", greedy(8))
        assert end.finish_reason == "length"
        most = max(most, engine.num_running)

    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(ask)
        with anyio.fail_after(10):
            await engine.address.get_json("/health")

    assert most <= engine.info.num_slots
    assert engine.num_running == 0


async def test_the_context_ends_an_answer(engine: LlamaCppEngine) -> None:
    asked = asking("Count from 1 to 1000.", greedy(10_000))
    num_prompt = len(await prompt_ids(engine, "Count from 1 to 1000."))
    begun = (28,) * (engine.info.max_model_len - num_prompt - 6)

    *_, end = await everything(engine, replace(asked, generated=begun))

    assert isinstance(end, GenerationEnd)
    assert end.finish_reason == "length"
    assert end.num_prompt_tokens == num_prompt
    assert end.num_completion_tokens == 6


async def test_a_context_that_the_engine_rounded_up_ends_where_it_was_promised(
    make_config: Any,
) -> None:
    config = make_config(max_model_len=200, num_slots=1)
    async with open_llamacpp(config, on_progress=lambda _text: None) as engine:
        endless = replace(greedy(10_000), logit_bias=((END_OF_TURN, -100.0),))
        received = await everything(engine, asking("Count from 1 to 1000.", endless))
        num_prompt = len(await prompt_ids(engine, "Count from 1 to 1000."))

        assert isinstance(end := received[-1], GenerationEnd)
        assert end.finish_reason == "length"
        assert num_prompt + len(ids_of(chunks_of(received))) == 200
        assert engine.num_running == 0
        with pytest.raises(ContextLengthExceeded):
            await everything(engine, asking("word " * 180, greedy(5)))


async def test_an_answer_goes_on_where_it_was_left(engine: LlamaCppEngine) -> None:
    asked = asking("Name ten colours.", greedy(40))
    whole = chunks_of(await everything(engine, asked))
    ids = ids_of(whole)

    for cut in (1, 7, len(ids) - 1):
        rest = replace(asked, generated=tuple(ids[:cut]), sampling=greedy(40 - cut))
        received = await everything(engine, rest)
        assert isinstance(received[0], GenerationStart)
        assert received[0].num_prompt_tokens == len(await prompt_ids(engine, "Name ten colours."))
        assert ids[:cut] + ids_of(chunks_of(received)) == ids


async def test_what_comes_together_is_given_together(engine: LlamaCppEngine) -> None:
    """The first piece at once, and all of the others, in fewer batches than tokens."""
    sizes: list[int] = []
    async with engine.generate(asking("Count from 1 to 1000.", greedy(60))) as batches:
        async for batch in batches:
            sizes.append(len(ids_of(chunks_of(batch))))
            time.sleep(0.1)

    assert sizes[0] == 1
    assert sum(sizes) == 60
    assert max(sizes) > 1


async def test_a_prompt_that_was_seen_is_cached(engine: LlamaCppEngine) -> None:
    question = "Which animal says moo? Answer in one word."

    _chunks, first = await complete(engine, question, greedy(2))
    _chunks, second = await complete(engine, question, greedy(2))

    assert first.num_prompt_tokens == second.num_prompt_tokens
    assert second.num_cached_tokens == second.num_prompt_tokens - 1


async def test_a_token_that_the_model_does_not_have_is_refused(engine: LlamaCppEngine) -> None:
    request = replace(asking("Hello", greedy(1)), generated=(10**9,))

    with pytest.raises(EngineUnavailable, match="invalid tokens"):
        await everything(engine, request)


async def test_what_fails_in_the_block_keeps_its_name(engine: LlamaCppEngine) -> None:
    """A renter's broken socket is no crash of the engine."""
    with pytest.raises(anyio.BrokenResourceError):
        async with engine.generate(asking("Hello", greedy(50))) as batches:
            await anext(batches)
            raise anyio.BrokenResourceError

    assert engine.num_running == 0


STRICT: Final = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ message['content'] }}{% endfor %}"
)
"""As Mistral's and Gemma's."""


def with_template(model: Path, template: str, copy: Path) -> Path:
    """The model with another chat template, no longer than its own."""
    data = bytearray(model.read_bytes())
    begin = data.index(b"{% for message in messages %}")
    length = int.from_bytes(data[begin - 8 : begin], "little")
    data[begin : begin + length] = template.encode().ljust(length)
    copy.write_bytes(data)
    return copy


async def test_roles_that_the_template_refuses_are_the_callers_fault(
    make_config: Any, demo_model: Path, tmp_path: Path
) -> None:
    strict = make_config(model_path=with_template(demo_model, STRICT, tmp_path / "strict.gguf"))
    user = Message("user", "Hello")

    async with open_llamacpp(strict, on_progress=lambda _text: None) as engine:
        assert await everything(engine, GenerationRequest(messages=(user,), sampling=greedy(2)))
        for refused in ((user, user), (user, Message("assistant", "Hi"), user, user)):
            with pytest.raises(ConversationRefused, match="roles must alternate"):
                await everything(engine, GenerationRequest(messages=refused, sampling=greedy(2)))
